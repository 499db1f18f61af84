"""What the daemon does with an order: its desk, its records, its training process."""
