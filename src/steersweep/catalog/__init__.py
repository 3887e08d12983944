"""Facts about hardware, as data."""
