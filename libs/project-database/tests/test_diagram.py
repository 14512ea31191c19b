"""The page that shows the tables is what they are."""

from diagram import COMMAND, PAGE, draw


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text() == draw(), f"run {COMMAND}"
