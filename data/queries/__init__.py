"""Query files: one module per format, each with ``read(path) -> list[PromptRecord]``.

A format is added by its module, its name in ``FormatName``, its line in ``FORMATS``, and the rule
its queries are scored by (``stages.conventions``). Nothing here reads or imports a format before
it is asked for, so that planning a run stays light. Apart from them stand ``SENTENCES``:
words alone, that no truth is known of (``data.queries.sentences``).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from data.prompts import PromptRecord

FormatName = Literal[
    "instruct3d",
    "reasonseg3d",
    "reason3d",
    "reason3d_search",
    "scanrefer",
    "multi3drefer",
    "intent3d",
    "surprise3d",
]
DEFAULT_FORMAT: FormatName = "instruct3d"
SENTENCES: Literal["sentences"] = "sentences"


class QueryFormat(NamedTuple):
    """A format's module, and the fields that may name the scene of a record."""

    module: str
    scene_keys: tuple[str, ...] = ("scene_id",)

    def read(self, path: Path) -> list[PromptRecord]:
        """Every record of a file, in its order; DataError for a missing or damaged one."""
        records: list[PromptRecord] = importlib.import_module(self.module).read(path)
        return records


FORMATS: Mapping[FormatName, QueryFormat] = {
    "instruct3d": QueryFormat("data.queries.instruct3d"),
    "reasonseg3d": QueryFormat("data.queries.reasonseg3d"),
    "reason3d": QueryFormat("data.queries.reason3d"),
    "reason3d_search": QueryFormat("data.queries.reason3d_search", ("scene_name",)),
    "scanrefer": QueryFormat("data.queries.scanrefer"),
    "multi3drefer": QueryFormat("data.queries.multi3drefer"),
    "intent3d": QueryFormat("data.queries.intent3d", ("scan_id", "scene_id")),
    "surprise3d": QueryFormat("data.queries.surprise3d"),
}
