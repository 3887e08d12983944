"""Where steering works best, looked for with few prompts: no model is loaded here."""
