"""The centre: rounds, releases, state. Never imports client; needs no torch."""
