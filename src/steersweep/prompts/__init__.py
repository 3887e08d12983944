"""Prompt sets, as data files."""
