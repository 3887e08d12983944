"""Other people's tools: Inspect, which evaluates steered models and shows the answers of runs."""
