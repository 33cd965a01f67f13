"""Text on pictures: whatever was asked, answered or named is drawn as letters and nothing else."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from bisect import bisect_right
from functools import cache
from math import ceil

from PIL import ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont
_UNSEEN = frozenset(("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"))
"""Control, format (which can turn the reading direction), unassigned, line and paragraph ends."""
_LIKE = str.maketrans(
    {"\u2018": "'", "\u2019": "'", "\u201c": '"', "\u201d": '"', "\u2026": "...", "\u00d7": "x"}
    | dict.fromkeys("\u2010\u2011\u2012\u2013\u2014\u2212", "-")
)
"""What Pillow's font lacks, and what is read the same."""
_CUT = " ..."
_LONGEST_NAME = 80


@cache
def font(size: int) -> Font:
    """Pillow's own font, which is the same everywhere; ``size`` in pixels."""
    return ImageFont.load_default(size)


def plain(text: str) -> str:
    """One line of ``text`` without a character that is not seen; runs of blanks are one."""
    seen = (" " if unicodedata.category(letter) in _UNSEEN else letter for letter in text)
    return " ".join("".join(seen).split())


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """At most ``most`` lines of ``text``, none wider than ``width`` pixels in that font size.

    Words too long for a line are broken; a text that was cut ends in "...". Accents are left
    out; letters of other scripts than the Latin one appear as boxes. No line for no text.
    """
    whole = plain(text)
    letters = unicodedata.normalize("NFKD", whole[: most * width].translate(_LIKE))
    words = "".join(one for one in letters if not unicodedata.combining(one)).split()
    lines: list[str] = []
    while words and len(lines) < most:
        lines.append(_line(words, size, width))
    if lines and (words or len(whole) > most * width):
        while lines[-1] and _length(lines[-1] + _CUT, size) > width:
            lines[-1] = lines[-1][:-1]
        lines[-1] = lines[-1].rstrip() + _CUT
    return lines


def _line(words: list[str], size: int, width: int) -> str:
    """Takes the words of one line off the front of ``words``."""
    line = words.pop(0)
    if _length(line, size) > width:
        lengths = range(len(line) + 1)
        fits = max(1, bisect_right(lengths, width, key=lambda n: ceil(_length(line[:n], size))) - 1)
        if line[fits:]:
            words.insert(0, line[fits:])
        return line[:fits]
    while words and _length(f"{line} {words[0]}", size) <= width:
        line = f"{line} {words.pop(0)}"
    return line


def _length(text: str, size: int) -> float:
    return font(size).getlength(text)


def file_name(text: str) -> str:
    """``text`` as part of a file's name: letters, digits, ".", "_" and "-", never hidden.

    Where letters had to go, a digest of the whole text keeps two names apart.
    """
    safe = re.sub(r"[^A-Za-z0-9._-]+", "_", text)[:_LONGEST_NAME].lstrip("._-")
    if safe and safe == text:
        return safe
    return f"{safe}_{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()[:8]}"
