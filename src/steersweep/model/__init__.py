"""A chat model: the only place that knows transformers."""
