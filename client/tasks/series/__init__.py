"""Sensor series: recordings become windows, and windows become a class or numbers."""
