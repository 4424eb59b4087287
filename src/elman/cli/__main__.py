"""`python -m elman.cli`: the command line."""

from elman.cli import main

main()
