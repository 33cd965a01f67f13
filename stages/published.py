"""Published figures of a benchmark, and what the report shows of them beside a run's own.

The tables stand in ``published_tables/*.yaml``, each with where it was read, how far to trust it
and why its figures may or may not be set against those measured here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, model_validator

from data.artifacts.evaluation import SOURCES
from data.queries import FormatName
from stages.conventions import FIGURES

_FOLDER = Path(__file__).with_name("published_tables")
_OF_MASKS = ("miou", "giou", "ciou")
_NAMES: Mapping[FormatName, str] = {
    "instruct3d": "Instruct3D",
    "reasonseg3d": "ReasonSeg3D",
    "reason3d": "Reason3D",
    "reason3d_search": "Reason3D's search",
    "scanrefer": "ScanRefer",
    "multi3drefer": "Multi3DRefer",
    "intent3d": "Intent3D",
    "surprise3d": "SURPRISE3D",
}


class PublishedRow(BaseModel):
    """One method's figures, percent, in the table's order; None where it gives none."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    method: str
    supervision: Literal["fine-tuned", "zero-shot", "labelled", "label-free", "not said"]
    values: tuple[float | None, ...]


class PublishedTable(BaseModel):
    """One table of one source.

    ``formats`` and ``datasets`` are the query formats and readers of the scene sets it is about;
    ``version`` is the data set's that the figures are of, where it has several. ``trust``:
    "paper" (the method's own), "readme" (of released code) or "secondary" (public notes, read
    where the paper was not). ``figures`` are keys of ``stages.conventions.FIGURES``.
    ``comparable`` tells whether figures measured here may be set against these, ``reasons`` why.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")
    name: str
    formats: tuple[FormatName, ...]
    datasets: tuple[Literal["scannetpp", "scannet", "matterport"], ...]
    version: Literal["", "v1", "v2"] = ""
    source: str
    trust: Literal["paper", "readme", "secondary"]
    comparable: Literal["yes", "partly", "no"]
    figures: tuple[str, ...]
    rows: tuple[PublishedRow, ...]
    reasons: Mapping[Literal["convention", "data", "version", "supervision"], str]

    @model_validator(mode="after")
    def _fits(self) -> Self:
        """Refuse unknown figures, and rows of another length than the table's figures."""
        unknown = [name for name in self.figures if name not in FIGURES]
        if unknown or any(len(row.values) != len(self.figures) for row in self.rows):
            raise ValueError(f"{self.name}: figures {unknown or self.figures} and rows do not fit")
        return self


@dataclass(frozen=True)
class TableView:
    """A table, this run's own figures for it by source (fractions), and what its version means."""

    table: PublishedTable
    own: Mapping[str, tuple[float | None, ...]]
    version_note: str


@dataclass(frozen=True)
class PublishedSection:
    """What the report shows: ``benchmark`` of metrics.json, and the tables that go with it.

    ``asked`` is the name of the benchmark whose format the queries have; ``names`` are the
    convention's figures by key, ``rows`` pairs of what a row is called and its figures by source.
    """

    benchmark: Mapping[str, Any]
    asked: str
    names: Mapping[str, str]
    rows: tuple[tuple[str, Mapping[str, Any]], ...]
    tables: tuple[TableView, ...]
    figure_names: Mapping[str, str] = field(default_factory=lambda: FIGURES)


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """Every table that there is, checked, in the order of its file."""
    files = sorted(_FOLDER.glob("*.yaml"))
    contents = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    tables = [table for content in contents for table in content["tables"]]
    return tuple(PublishedTable.model_validate(table) for table in tables)


def published_section(summary: Mapping[str, Any]) -> PublishedSection:
    """The section of a run, from the content of its ``metrics.json``.

    Generated rooms are of no benchmark, so no table goes with them.
    """
    benchmark = summary["benchmark"]
    tables = tuple(
        TableView(table, _own(summary, table.figures), _version_note(table, benchmark["version"]))
        for table in published_tables()
        if benchmark["query_format"] in table.formats and benchmark["dataset"] in table.datasets
    )
    figures = benchmark["figures"]
    overall = figures["student"]["overall"]
    rows = [("all", {source: figures[source]["overall"] for source in SOURCES})]
    for name in figures["student"]["rows"]:
        rows.append((name, {source: figures[source]["rows"][name] for source in SOURCES}))
    names = {key: name for key, name in FIGURES.items() if key in overall}
    return PublishedSection(
        benchmark, _NAMES[benchmark["query_format"]], names, tuple(rows), tables
    )


def _own(
    summary: Mapping[str, Any], figures: tuple[str, ...]
) -> dict[str, tuple[float | None, ...]]:
    """By source the run's figures: the benchmark's own, else those of masks by the same name."""
    own = {}
    for source in SOURCES:
        overall = summary["benchmark"]["figures"][source]["overall"]
        of_masks = {name: summary[source][name] for name in _OF_MASKS}
        own[source] = tuple({**of_masks, **overall}.get(name) for name in figures)
    return own


def _version_note(table: PublishedTable, version: str) -> str:
    if not table.version or version == table.version:
        return ""
    said = f"says {version}" if version else "does not say which version it is of"
    return f"These figures are of version {table.version}; this scene set {said}."
