"""What every kind of attack shares: commands in forked processes, finished runs, verdicts."""
