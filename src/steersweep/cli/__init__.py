"""The command line: parse, call, print. No logic; heavy imports happen inside the commands."""

from steersweep.cli.app import app, main

__all__ = ["app", "main"]
