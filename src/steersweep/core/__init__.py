"""What every other folder builds on; needs no torch."""
