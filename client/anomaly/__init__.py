"""Learning from good parts alone: what a plant needs to say that a part is unlike the good ones."""
