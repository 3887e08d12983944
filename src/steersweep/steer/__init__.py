"""Edits of the residual stream, batched generation, and passes with edits."""
