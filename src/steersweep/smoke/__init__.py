"""The smoke test of a model."""
