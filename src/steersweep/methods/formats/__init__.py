"""Directions of other people's tools: reading and writing their files, one file per format."""
