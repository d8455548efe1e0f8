import pytest

from uld.base import shown, stop
from uld.base.errors import DataError


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("plain ä 漢 \U0001f600.png", "plain ä 漢 \U0001f600.png"),
        ("a\x1b[31mb", "a\\x1b[31mb"),
        ("a\rb\nc\td", "a\\rb\\nc\\td"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\udcff.png", "\\udcff.png"),
    ],
)
def test_a_line_shows_what_is_not_seen(text: str, seen: str) -> None:
    assert shown.line(text) == seen


def test_a_message_keeps_its_lines() -> None:
    assert shown.message("one\x07\ntwo\r") == "one\\x07\ntwo\\r"


def test_errors_leave_with_their_controls_spelt(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise DataError("\x1b[2J.png is no photograph")

    with pytest.raises(SystemExit):
        stop.run(fail)
    assert capsys.readouterr().err == "error: \\x1b[2J.png is no photograph\n"
