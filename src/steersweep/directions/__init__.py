"""Ways to find a direction in the residual stream."""
