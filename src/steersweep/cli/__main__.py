"""`python -m steersweep.cli`."""

from steersweep.cli import main

main()
