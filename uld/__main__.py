"""Entry point of the command line: the installed script `uld` and `python -m uld` alike."""

from uld.base import early


def main() -> None:
    """Run the command line; an interrupt while it is being imported ends in one line too."""
    early.prepare()
    from uld.commands.cli import app

    app()


if __name__ == "__main__":
    main()
