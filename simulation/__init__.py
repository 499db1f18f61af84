"""Many plants and a centre in one place: try a method before anyone's line is touched."""
