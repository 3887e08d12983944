"""Proof that COSMIC and DIM here equal the official code: fixtures, a run, a report to sign."""
