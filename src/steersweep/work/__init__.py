"""One job: a loaded model and its conditions."""
