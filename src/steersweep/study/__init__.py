"""A plan of several phases."""
