"""What a run is on disk: conditions, records, the folder; needs no torch."""
