"""What people say of a run: signatures, labels, corrected rates."""
