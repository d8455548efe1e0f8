"""`python -m uld`: the command line, whatever the name of the installed script."""

from uld.commands.cli import main

main()
