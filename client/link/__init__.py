"""The part of a plant that talks to the centre, and runs as a user of its own."""
