"""What the plant's commands show, and look at."""
