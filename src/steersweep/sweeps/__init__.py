"""One model or a few: settings, run, results, judging again."""
