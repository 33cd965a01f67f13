"""ScanNet++'s benchmark classes: what raw labels are renamed to, dropped, or numbered.

    <root>/metadata/semantic_benchmark/   map_benchmark.csv  top100.txt  top100_instance.txt

A cell of ``map_benchmark.csv`` renames the label of its row, an empty cell leaves it as it is,
and the cell ``None`` drops it: a word, which pandas would read as an empty cell. What is left
counts when its name stands in the list of classes, with the number of its line (from 0);
everything else is ``IGNORE``. Names of classes contain spaces.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from data.errors import DataError
from data.jsonio import read_text
from data.readers.scannetpp_layout import split_root
from data.types import Array

IGNORE = -100
Benchmark = Literal["semantic", "instance"]
ClassMap = Mapping[str, str | None]
_REMEDY = "Download ScanNet++'s metadata again."
_DROP = "None"
_LISTS: dict[Benchmark, str] = {"semantic": "top100.txt", "instance": "top100_instance.txt"}


def read_class_map(path: Path, benchmark: Benchmark) -> dict[str, str | None]:
    """What each raw label of ``map_benchmark.csv`` becomes; None for one that is dropped.

    Raises:
        DataError: missing or damaged file, a column that is not there, a row with too few or
            too many cells, a label that is empty or occurs twice.
    """
    rows = _rows(path)
    header = rows[0][1]
    column = f"{benchmark}_map_to"
    if any(header.count(name) != 1 for name in ("class", column)):
        raise DataError(path, f"columns class and {column}, each once", f"{header[:8]}", _REMEDY)
    mapping: dict[str, str | None] = {}
    for line, row in rows[1:]:
        if len(row) != len(header):
            expected = f"{len(header)} cells, as in the header, in line {line}"
            raise DataError(path, expected, f"{len(row)}", _REMEDY)
        label, target = row[header.index("class")].strip(), row[header.index(column)].strip()
        if not label or label in mapping:
            found = f"{label!r} again" if label else "an empty one"
            raise DataError(path, f"a new label in line {line}", found, _REMEDY)
        mapping[label] = None if target == _DROP else target or label
    if not mapping:
        raise DataError(path, "at least one label", "none", _REMEDY)
    return mapping


def _rows(path: Path) -> list[tuple[int, list[str]]]:
    """Rows of a CSV file that are not blank, with the number of the line each ends in."""
    text = read_text(path, "a CSV file", _REMEDY).removeprefix("\ufeff")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, row) for row in reader if any(cell.strip() for cell in row)]
    except csv.Error as error:
        found = f"{error} in line {reader.line_num}"
        raise DataError(path, "a CSV file", found, _REMEDY) from error


def read_classes(path: Path) -> tuple[str, ...]:
    """The names of a list such as ``top100.txt``, one a line; a class's id is its position.

    Raises:
        DataError: missing, binary or empty file, an empty line among the names, a name twice.
    """
    lines = read_text(path, "a list of classes", _REMEDY).rstrip().split("\n")
    names = tuple(line.strip() for line in lines)
    wrong = sorted({name for name in names if not name or names.count(name) > 1})
    if wrong:
        found = f"{wrong[:3]} twice" if wrong[0] else "an empty line"
        raise DataError(path, "each class once, one a line", found, _REMEDY)
    return names


def mapped_label(label: str, class_map: ClassMap) -> str | None:
    """What a raw label is called in the benchmark, or None; a label without a row stays."""
    return class_map.get(label, label)


def class_ids(labels: Sequence[str], class_map: ClassMap, classes: Sequence[str]) -> Array:
    """Class id (n,) int32 of each raw label: its mapped name's position, or ``IGNORE``."""
    numbers = {name: number for number, name in enumerate(classes)}
    mapped = [mapped_label(label, class_map) for label in labels]
    ids = [IGNORE if name is None else numbers.get(name, IGNORE) for name in mapped]
    return np.array(ids, np.int32)


def read_benchmark(
    root: Path, benchmark: Benchmark
) -> tuple[dict[str, str | None], tuple[str, ...]]:
    """The mapping and the list of classes of a dataset, by its root or its ``data`` folder.

    Raises:
        DataError: as of ``read_class_map`` and ``read_classes``.
    """
    folder = split_root(root)[1] / "metadata" / "semantic_benchmark"
    class_map = read_class_map(folder / "map_benchmark.csv", benchmark)
    return class_map, read_classes(folder / _LISTS[benchmark])
