"""What Python users call besides single steps: a sweep, and its results as tables and pictures."""
