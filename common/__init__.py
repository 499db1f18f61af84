"""What both sides of a federation must agree on. Imports neither client nor server."""
