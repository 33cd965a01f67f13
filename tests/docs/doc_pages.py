"""The documentation's pages as tests read them: fenced blocks, their markers, commands, links."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.support.cli import REPOSITORY

PAGES = (
    REPOSITORY / "README.md",
    REPOSITORY / "CONTRIBUTING.md",
    *sorted((REPOSITORY / "docs").rglob("*.md")),
)
SHELL = ("bash", "console", "sh", "shell")
_FENCE = re.compile(r"^```(\w*)$")
_MARKER = re.compile(r"^<!-- (run|parsed|not run here: \S.*) -->$")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it begins, its language, its marker ("" without one), its text."""

    page: Path
    line: int
    language: str
    marker: str
    text: str

    @property
    def name(self) -> str:
        """Page and line, as an editor takes them."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    def commands(self) -> list[list[str]]:
        """Each command of the block as words; comments are left out."""
        lines = self.text.replace("\\\n", " ").splitlines()
        words = [shlex.split(line, comments=True) for line in lines]
        return [of_line for of_line in words if of_line]


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page, in order; ValueError for one that never ends."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start: tuple[int, str, str] | None = None
    for number, line in enumerate(lines):
        if start is None:
            fence = _FENCE.match(line)
            if fence:
                before = _MARKER.match(lines[number - 1])
                start = number, fence[1], before[1] if before else ""
        elif line == "```":
            first, language, marker = start
            text = "\n".join(lines[first + 1 : number]) + "\n"
            yield Block(page, first + 1, language, marker, text)
            start = None
    if start is not None:
        raise ValueError(f"{page}:{start[0] + 1}: the block never ends")


def all_blocks() -> list[Block]:
    """The blocks of all pages."""
    return [block for page in PAGES for block in blocks(page)]


def prose(page: Path) -> str:
    """The page's text without its fenced blocks and their markers."""
    text = page.read_text(encoding="utf-8")
    return re.sub(r"^```.*?^```$|^<!--.*?-->$", "", text, flags=re.DOTALL | re.MULTILINE)


def links(page: Path) -> list[str]:
    """Where the page's links and pictures point."""
    return _LINK.findall(prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors of the page's headings, as GitHub and MkDocs make them."""
    headings = (_HEADING.match(line) for line in prose(page).splitlines())
    texts = [re.sub(r"[^\w\s-]", "", match[1].lower()) for match in headings if match]
    return {re.sub(r"[-\s]+", "-", text.strip()) for text in texts}
