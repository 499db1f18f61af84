"""Flower's SuperLink and nginx below the centre, and the runs that they carry."""
