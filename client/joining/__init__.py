"""How a plant becomes part of a federation, and stays it."""
