"""Where a team already looks: Weights & Biases, or trackio without an account."""
