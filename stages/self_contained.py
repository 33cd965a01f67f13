"""Pages of one file that load nothing: their inline texts and the policy that allows only those."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

_HERE = Path(__file__).parent
_ALWAYS, _IN_3D = ("report.js",), ("viewer3d.bundle.js", "report3d.js")


@dataclass(frozen=True)
class Inline:
    """A script or style of our own, safe to print as it is, and the policy source allowing it."""

    text: Markup
    source: str


def inline(names: Sequence[str]) -> Inline:
    """The texts of files beside the stages, one after the other."""
    text = "".join((_HERE / name).read_text("utf-8") for name in names)
    return Inline(Markup(text), csp_hash(text))


def page_scripts(in_3d: bool) -> tuple[str, ...]:
    """The scripts of a page of queries: its table's, and those of its 3D part."""
    return (*_ALWAYS, *(_IN_3D if in_3d else ()))


def csp_hash(text: str) -> str:
    """The Content-Security-Policy source that allows exactly this inline text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
