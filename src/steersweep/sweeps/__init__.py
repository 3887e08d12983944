"""One model or a few: settings, run, results, verdict."""
