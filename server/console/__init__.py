"""What the operator's commands show."""
