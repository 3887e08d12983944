"""Studies on Modal: what is deployed and runs there; how it is begun and fetched from here."""
