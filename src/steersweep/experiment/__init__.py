"""A name that others rely on, and nothing else: see `steersweep.experiment.verdict`."""
