"""Sets of classes by name: lists of words that text embeddings are made of.

Only ScanNet's twenty names stand here. The other lists belong to their data sets and are read
from where the user keeps those.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError, DataError
from data.jsonio import read_text
from data.queries.classes import read_classes

SCANNET20 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink"),
    *("bathtub", "other furniture"),
)
"""ScanNet's benchmark classes in the order of their NYU40 numbers (1 to 12, 14, 16, ... 39)."""


@dataclass(frozen=True)
class _Listed:
    """A list that lies in its data set: the folder's usual name, and files within it."""

    dataset: str
    file: str
    label_table: str = ""
    what: str = ""


_LISTED: Mapping[str, _Listed] = {
    "scannet200": _Listed(
        "scannet",
        "queries/scannet200.txt",
        "scannetv2-labels.combined.tsv",
        "ScanNet200's 200 classes, a name or an id of the label table a line",
    ),
    "scannetpp_top100": _Listed(
        "scannetpp", "metadata/semantic_benchmark/top100.txt", "", "ScanNet++'s benchmark classes"
    ),
    "matterport": _Listed(
        "matterport", "category_mapping.tsv", "", "Matterport3D's table of categories"
    ),
}
NAMES = ("scannet20", *_LISTED)


def dataset_of(name: str) -> str:
    """Usual name of the data set's folder; "" for a set that needs none."""
    return _LISTED[name].dataset if name in _LISTED else ""


def file_of(name: str, root: Path | None) -> Path | None:
    """The list's file: below ``root`` for a known set, the name itself for any other list.

    None for a set that stands here. Raises ConfigError for a name that is neither.
    """
    if name in _LISTED:
        return (root or Path()) / _LISTED[name].file
    if name == "scannet20":
        return None
    path = Path(name).expanduser()
    if path.suffix in (".txt", ".tsv") or path.is_file():
        return path
    raise ConfigError(
        f"--classes: no set {name!r}. Known sets: {', '.join(NAMES)}; a list of your own is given "
        "as the path of a text file, one class a line."
    )


def class_names(name: str, root: Path | None) -> tuple[str, ...]:
    """Names of a set's classes in their order, without underscores.

    ``root`` is the data set's folder. Raises DataError for a missing or damaged list (a list of
    one class a line has each once, a table tells rows apart by their numbers); ConfigError as of
    ``file_of``.
    """
    path = file_of(name, root)
    if path is None:
        return SCANNET20
    listed = _LISTED.get(name)
    if listed is not None and not path.is_file():
        remedy = f"Put it there, or name the data set's folder with --data-root ({listed.what})."
        raise DataError(path, f"the list of {name}", "no such file", remedy)
    table = (root or Path()) / listed.label_table if listed and listed.label_table else None
    classes = read_classes(path, table if table and _is_numbered(path) else None)
    return tuple(classes.names[k].replace("_", " ").strip() for k in sorted(classes.names))


def _is_numbered(path: Path) -> bool:
    lines = read_text(path, "a list of classes", "Give one class a line.").split()
    return bool(lines) and all(line.isdecimal() for line in lines)
