"""One plant: its data, its training, its personal part, and what it lets out."""
