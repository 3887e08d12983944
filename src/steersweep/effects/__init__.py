"""What steering costs the model: divergence, text, choices, harmful and borderline prompts."""
