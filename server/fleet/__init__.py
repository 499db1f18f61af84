"""The plants behind Flower: who they are, what is sent to them, what comes back."""
