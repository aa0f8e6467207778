"""`python -m flowar` is the `flowar` command."""

from flowar.cli import main

main()
