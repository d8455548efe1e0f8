"""Text on its way to a terminal: names of files may hold anything, also what moves the cursor or changes colours."""

import unicodedata

_HIDDEN = {
    "Cc",
    "Cf",
    "Cs",
    "Zl",
    "Zp",
}  # Unicode's categories of what is not seen: controls, directions, halves of pairs
LONGEST = 60  # characters of a value in a message


def line(text: object) -> str:
    """The text with everything that is not seen spelt out, as `\\x1b` or `\\n`: it stays on its line."""
    return "".join(_spelt(one) if unicodedata.category(one) in _HIDDEN else one for one in str(text))


def short(text: object) -> str:
    """A value for a message: on one line, and not too long."""
    whole = line(text)
    return whole if len(whole) <= LONGEST else f"{whole[: LONGEST - 3]}..."


def message(text: object) -> str:
    """The same for a text of several lines, whose ends stay as they are."""
    return "\n".join(map(line, str(text).split("\n")))


def _spelt(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
