"""Parses an HTML page without a browser."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from typing import Any


class Page(HTMLParser):
    """Collects tags with attributes, texts of scripts and visible text.

    ``code`` holds the scripts that run; other scripts hold data.
    """

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.inside: list[str] = []
        self.scripts: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        while self.inside and self.inside.pop() != tag:
            continue

    def handle_data(self, data: str) -> None:
        if self.inside and self.inside[-1] == "script":
            self.scripts[-1] += data
        else:
            self.text += data + " "

    def data(self, name: str) -> Any:
        """Return the JSON in the script with this id."""
        ids = [attrs.get("id") for attrs in self.all("script")]
        return json.loads(self.scripts[ids.index(name)])

    @property
    def code(self) -> list[str]:
        tags = self.all("script")
        return [text for text, attrs in zip(self.scripts, tags, strict=True) if not attrs]

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]
