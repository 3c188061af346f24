"""`python -m neolayer`: the command line."""

from neolayer.cli import main

main()
