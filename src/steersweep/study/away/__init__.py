"""A study that is led elsewhere, while this machine may sleep."""
