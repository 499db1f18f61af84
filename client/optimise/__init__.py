"""Process settings that a plant's own model proposes (``transferline-plant optimise``).

`wishes` says what is asked for, `support` what the plant's rows support, `ensemble` how sure the
model is, `search` looks with Optuna. All of it stays at the plant.
"""
