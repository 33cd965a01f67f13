"""Jinja templates, and inline scripts and styles for pages that load no other file."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup


@cache
def templates() -> Environment:
    """Return the environment of the templates in ``stages/report/templates``."""
    # Imported here because commands import this module for ``duration`` alone.
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(
            [Path(__file__).with_name("templates"), Path(__file__).with_name("static")]
        ),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = _percent
    environment.filters["duration"] = duration
    return environment


def load_templates() -> None:
    """Compile all templates, which takes longer than a small page."""
    environment = templates()
    for name in environment.list_templates(extensions=["jinja"]):
        environment.get_template(name)


def _percent(value: float | None, digits: int = 1) -> str:
    return "–" if value is None else f"{100 * value:.{digits}f}"


def duration(seconds: float) -> str:
    """Write seconds as readers say them: "0.4 s", "84 s", "3 min 27 s", "2 h 05 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    if whole < 7200:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(whole / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


_STATIC = Path(__file__).with_name("static")
_ALWAYS, _IN_3D = ("report.js",), ("viewer3d.bundle.js", "report3d.js")


@dataclass(frozen=True)
class Inline:
    """A script or style of this project, safe to print, and the CSP source that allows it."""

    text: Markup
    source: str


def inline(names: Sequence[str]) -> Inline:
    """Join the texts of files in ``stages/report/static``."""
    from markupsafe import Markup

    text = "".join((_STATIC / name).read_text("utf-8") for name in names)
    return Inline(Markup(text), csp_hash(text))


def page_scripts(in_3d: bool) -> tuple[str, ...]:
    """Return the scripts of a page: those of its table, and those of its 3D view."""
    return (*_ALWAYS, *(_IN_3D if in_3d else ()))


def csp_hash(text: str) -> str:
    """Return the Content-Security-Policy source that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
