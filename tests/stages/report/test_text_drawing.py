"""Text on pictures: letters only, inside their width, whatever was asked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.report.pictures import file_name, font, plain, wrapped

SCRIPT = "<img src=x onerror=alert(1)>"


def test_markup_stays_the_letters_it_is() -> None:
    assert plain(SCRIPT) == SCRIPT
    assert wrapped(SCRIPT, 14, 400, 1) == [SCRIPT]


def test_what_is_not_seen_is_gone_and_lines_are_one() -> None:
    assert plain("  where\n\tcan\r\nI \u202esit\u202c\x1b[31m? ") == "where can I sit [31m?"
    assert plain("\u2066\u200f\x00") == ""
    assert plain("\u05d0\u05d9\u05e4\u05d4 a") == "\u05d0\u05d9\u05e4\u05d4 a"
    assert wrapped(" \n ", 14, 400, 3) == []


def test_words_are_wrapped_and_none_is_lost() -> None:
    text = "the wooden chair between the window and the desk, not the other one"
    lines = wrapped(text, 14, 150, 20)
    assert len(lines) > 2 and " ".join(lines) == text
    # No line could have taken the first word of the next one.
    for line, after in zip(lines, lines[1:]):
        assert font(14).getlength(f"{line} {after.split()[0]}") > 150


def test_a_word_longer_than_a_line_is_broken() -> None:
    word = "".join(chr(ord("a") + index % 26) for index in range(300))
    lines = wrapped(word, 14, 150, 100)
    assert "".join(lines) == word and len(lines) > 5


def test_a_text_that_was_cut_says_so() -> None:
    (line,) = wrapped("a chair " * 10_000, 14, 150, 1)
    assert line.endswith(" ...") and line.startswith("a chair a")
    assert wrapped("a chair", 14, 150, 1) == ["a chair"]


def test_marks_that_the_font_lacks_are_read_the_same() -> None:
    assert wrapped("caf\u00e9 \u2013 \u201cA\u201d 2 \u00d7 3\u2026", 14, 400, 1) == [
        'cafe - "A" 2 x 3...'
    ]


@given(st.text(max_size=200), st.integers(30, 300), st.integers(1, 4))
def test_no_line_is_wider_than_it_may_be(text: str, width: int, most: int) -> None:
    lines = wrapped(text, 12, width, most)
    assert len(lines) <= most
    assert all(font(12).getlength(line) <= width for line in lines)


@pytest.mark.parametrize("text", ["0aa50a3b97", "bank_chair-2", "DSC01.JPG"])
def test_safe_names_are_kept(text: str) -> None:
    assert file_name(text) == text


def test_unsafe_names_stay_inside_the_folder_and_apart() -> None:
    texts = ["../../etc/passwd", "..", "", ".hidden", "a/b", "a b", "a\x00b", SCRIPT, "x" * 500]
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    for name in names:
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyz0123456789._-")
        assert not name.startswith(".") and 8 <= len(name) < 100
