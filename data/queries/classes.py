"""Read class lists of query files, name sets of classes, and give CLIP's templates for them.

The user provides the lists. A list is

- a text file with one class a line, where the first line is class 0 (ScanNet200's list of 200);
  a line is a name, or a number of the column ``id`` of ScanNet's label table; or
- a table with the column ``raw_category`` (Matterport3D's ``category_mapping.tsv``), whose
  classes are numbered by the column ``index`` or, without that column, by their row from 0 on.

Annotated labels are matched by name. In ScanNet several raw labels form one class, as its label
table (``scannetv2-labels.combined.tsv``, columns ``raw_category`` and ``id``) defines.

Only ScanNet's twenty classes are listed here. The other lists belong to their datasets and are
read from the dataset's folder.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data.errors import ConfigError, DataError
from data.jsonio import read_text
from data.queries.prompts import GroupsOf, PromptRecord, normalized_name

_REMEDY = "Give the class list that the queries' numbers refer to, complete and in its order."
_TABLE_REMEDY = "Give the label table as it is published, tab-separated with its header."


@dataclass(frozen=True)
class ClassTable:
    """Class names by class index, and the class index of each label that belongs to a class."""

    source: Path
    names: Mapping[int, str]
    index_of_label: Mapping[str, int]

    @classmethod
    def make(
        cls, source: Path, names: Mapping[int, str], members: Iterable[tuple[str, int]]
    ) -> ClassTable:
        """Make a table from ``members`` (label, class index); a label's first entry counts."""
        index_of: dict[str, int] = {}
        pairs = list(members)
        for label, index in pairs:
            index_of.setdefault(label, index)
        for label, index in pairs:
            index_of.setdefault(normalized_name(label), index)
        return cls(source, names, index_of)

    def index_of(self, label: str) -> int | None:
        """Return the class of a label, matched exactly or else by its normalised name."""
        return self.index_of_label.get(label, self.index_of_label.get(normalized_name(label)))


def read_classes(path: Path, label_table: Path | None = None) -> ClassTable:
    """Read a class list and, if given, the table with the labels of each class.

    Raises:
        DataError: missing, empty or damaged file; a class twice; a blank line between classes;
            numbers without a label table; a class that the label table does not have.
    """
    text = read_text(path, "a list of classes", _REMEDY)
    first = text.split("\n", 1)[0]
    if "raw_category" in first.strip("\r").split("\t"):
        return _from_table(path)
    lines = [line.strip() for line in text.rstrip().split("\n")]
    if not all(lines):
        found = f"line {lines.index('') + 1} blank"
        raise DataError(path, "a class in every line: line n is class n - 1", found, _REMEDY)
    rows = _rows(label_table, ("raw_category", "id")) if label_table else []
    keys = [_key(line) for line in lines]
    _refuse_double(keys, path)
    if not label_table:
        if all(isinstance(key, int) for key in keys):
            remedy = "Name the label table as well (label_table in the scene set)."
            raise DataError(path, "names of classes", "numbers", remedy)
        members = [(line, index) for index, line in enumerate(lines)]
        return ClassTable.make(path, dict(enumerate(lines)), members)
    return _joined(path, lines, rows, label_table)


def _key(line: str) -> int | str:
    is_number = line.isascii() and line.isdecimal() and len(line) < 10
    return int(line) if is_number else normalized_name(line)


def _refuse_double(keys: Sequence[int | str], path: Path) -> None:
    if len(set(keys)) != len(keys):
        double = next(key for k, key in enumerate(keys) if key in keys[:k])
        raise DataError(path, "each class once", f"{double!r} twice", _REMEDY)


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read the rows of a tab-separated table with a header; "None" stays a text."""
    text = read_text(path, "a table of labels", _TABLE_REMEDY)
    lines = [line.rstrip("\r") for line in text.split("\n")]
    header = lines[0].split("\t")
    missing = [column for column in columns if column not in header]
    if missing or len(set(header)) != len(header):
        found = f"no {missing}" if missing else "a column twice"
        raise DataError(path, f"the columns {', '.join(columns)}", found, _TABLE_REMEDY)
    rows = []
    least = 1 + max(header.index(column) for column in columns)
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split("\t")
        if not any(cells):
            continue
        if any(cells[len(header) :]) or len(cells) < least:
            found = f"{len(cells)} cells in line {number}"
            raise DataError(path, f"{len(header)} cells a line", found, _TABLE_REMEDY)
        rows.append(dict(zip(header, (cell.strip() for cell in cells))))
    if not rows:
        raise DataError(path, "rows of labels", "only a header", _TABLE_REMEDY)
    return rows


def _whole(row: Mapping[str, str], column: str, path: Path) -> int:
    text = row[column]
    if not (text.isascii() and text.isdecimal() and len(text) < 10):
        expected = f"a whole number as {column} of {row['raw_category']!r}"
        raise DataError(path, expected, repr(text)[:60], _TABLE_REMEDY)
    return int(text)


def _from_table(path: Path) -> ClassTable:
    rows = _rows(path, ("raw_category",))
    has_index = "index" in rows[0]
    numbers = [_whole(row, "index", path) if has_index else k for k, row in enumerate(rows)]
    labels = [row["raw_category"] for row in rows]
    _refuse_double(numbers, path)
    names = dict(zip(numbers, labels, strict=True))
    return ClassTable.make(path, names, zip(labels, numbers, strict=True))


def _joined(
    path: Path, lines: Sequence[str], rows: Sequence[Mapping[str, str]], table: Path
) -> ClassTable:
    """Make the classes of a list, each with all labels that have its ``id`` in the table."""
    label_ids = [(row["raw_category"], _whole(row, "id", table)) for row in rows]
    id_of_name: dict[str, int] = {}
    words: dict[int, str] = {}
    for label, number in label_ids:
        id_of_name.setdefault(normalized_name(label), number)
    for row, (label, number) in zip(rows, label_ids, strict=True):
        name = row.get("category") or label
        id_of_name.setdefault(normalized_name(name), number)
        words.setdefault(number, name)
    index_of_id: dict[int, int] = {}
    names: dict[int, str] = {}
    for index, line in enumerate(lines):
        key = _key(line)
        class_id = key if isinstance(key, int) and key in words else id_of_name.get(str(key))
        if class_id is None:
            raise DataError(table, f"class {line!r} of {path}", "no such label", _TABLE_REMEDY)
        if class_id in index_of_id:
            found = f"lines {index_of_id[class_id] + 1} and {index + 1} with the id {class_id}"
            raise DataError(path, "each class once", found, _REMEDY)
        index_of_id[class_id] = index
        names[index] = words[class_id] if isinstance(key, int) else line
    members = [(label, index_of_id[n]) for label, n in label_ids if n in index_of_id]
    return ClassTable.make(path, names, members)


def check_names(records: Sequence[PromptRecord], classes: ClassTable, min_agreement: float) -> None:
    """Check that the records' object names agree with the names of their classes.

    Raises:
        DataError: a number that is no class; fewer than ``min_agreement`` of the names agree.
    """
    unknown = [r for r in records if any(raw not in classes.names for raw in r.raw_ids)]
    if unknown:
        expected = f"classes of {classes.source} ({len(classes.names)} of them)"
        shown = ", ".join(f"record {r.number}: {list(r.raw_ids)}" for r in unknown[:5])
        raise DataError(unknown[0].source, expected, f"{len(unknown)} others: {shown}", _REMEDY)
    named_records = [
        record for record in records if record.object_name and len(record.raw_ids) == 1
    ]
    num_agreeing = {
        shift: sum(_is_named(record, classes, shift) for record in named_records)
        for shift in (0, -1, 1)
    }
    if num_agreeing[0] >= min_agreement * len(named_records):
        return
    found = f"{num_agreeing[0]} of {len(named_records)} names that agree with their class"
    better = max((-1, 1), key=lambda shift: num_agreeing[shift])
    if num_agreeing[better] > num_agreeing[0]:
        found += f", but {num_agreeing[better]} that agree with the class numbered {better:+d}"
    expected = f"categories of {classes.source} (at least {min_agreement:.0%} agreeing)"
    raise DataError(records[0].source, expected, found, _REMEDY)


def _is_named(record: PromptRecord, classes: ClassTable, shift: int) -> bool:
    number, name = record.raw_ids[0] + shift, normalized_name(record.object_name)
    if number not in classes.names:
        return False
    return normalized_name(classes.names[number]) == name or classes.index_of(name) == number


def members_of(record: PromptRecord, classes: ClassTable, groups_of: GroupsOf) -> tuple[int, ...]:
    """Return the objectIds of all instances of the record's categories, in annotation order."""
    class_numbers = set(record.raw_ids)
    return tuple(
        group.object_id
        for group in groups_of(record.scene_id)
        if classes.index_of(group.label) in class_numbers
    )


SCANNET20 = (
    *("wall", "floor", "cabinet", "bed", "chair", "sofa", "table", "door", "window", "bookshelf"),
    *("picture", "counter", "desk", "curtain", "refrigerator", "shower curtain", "toilet", "sink"),
    *("bathtub", "other furniture"),
)
"""ScanNet's benchmark classes in the order of their NYU40 numbers (1 to 12, 14, 16, ... 39)."""


@dataclass(frozen=True)
class _Listed:
    """A class list of a dataset: the dataset folder's usual name, and the files within it."""

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
    """Return the usual name of the dataset's folder; "" for a set that needs no folder."""
    return _LISTED[name].dataset if name in _LISTED else ""


def file_of(name: str, root: Path | None) -> Path | None:
    """Return the file of a list: below ``root`` for a known set, else ``name`` as a path.

    Returns None for "scannet20", which needs no file. Raises ConfigError for a name that is
    neither a known set nor a file.
    """
    if name in _LISTED:
        return (root or Path()) / _LISTED[name].file
    if name == "scannet20":
        return None
    path = Path(name).expanduser()
    if path.suffix in (".txt", ".tsv") or path.is_file():
        return path
    raise ConfigError(
        f"--classes: no set {name!r}. Known sets: {', '.join(NAMES)}; give another list as the "
        "path of a text file, one class a line."
    )


def class_names(name: str, root: Path | None) -> tuple[str, ...]:
    """Return the names of a set's classes in their order, without underscores.

    ``root`` is the dataset's folder. Raises DataError for a missing or damaged list (a text list
    has each class once, a table has each number once), and ConfigError as ``file_of`` does.
    """
    path = file_of(name, root)
    if path is None:
        return SCANNET20
    listed = _LISTED.get(name)
    if listed is not None and not path.is_file():
        remedy = f"Put it there, or name the dataset's folder with --data-root ({listed.what})."
        raise DataError(path, f"the list of {name}", "no such file", remedy)
    table = (root or Path()) / listed.label_table if listed and listed.label_table else None
    classes = read_classes(path, table if table and _is_numbered(path) else None)
    return tuple(classes.names[k].replace("_", " ").strip() for k in sorted(classes.names))


def _is_numbered(path: Path) -> bool:
    lines = read_text(path, "a list of classes", "Give one class a line.").split()
    return bool(lines) and all(line.isdecimal() for line in lines)


HUB_IDS: Mapping[str, str] = {
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-L/14": "openai/clip-vit-large-patch14",
}
FILE_NAMES: Mapping[str, str] = {"ViT-B/16": "ViT16", "ViT-B/32": "ViT32", "ViT-L/14": "ViTL14"}
"""Abbreviation of a model in a file's name, as in the scripts of CLIP2Scene."""

TEMPLATES: Mapping[str, tuple[str, ...]] = {
    "name": ("{}",),
    "photo": ("a photo of a {}.",),
    "indoor": (
        "a photo of a {}.",
        "a photo of a {} in a room.",
        "a {} in a scene.",
        "there is a {} in the room.",
        "an indoor picture that shows a {}.",
        "a close view of a {}.",
        "a {} seen from far away.",
        "part of a {}.",
    ),
}
"""Prompt templates; ``{}`` is a class name. The embeddings of several templates are averaged."""

_PATCHES: Mapping[str, int] = {"ViT-B/16": 16, "ViT-B/32": 32, "ViT-L/14": 14}
_DIMS: Mapping[str, int] = {"ViT-B/16": 512, "ViT-B/32": 512, "ViT-L/14": 768}


def check_clip(folder: Path, clip: str) -> None:
    """Check that a folder's ``config.json`` does not belong to another model of ``HUB_IDS``.

    The model is recognised by the patch size of its image encoder or, if it has only a text
    encoder, by the length of its vectors. A model that is none of ``HUB_IDS`` is accepted.

    Raises DataError for another model, and for a config that is no JSON object.
    """
    path, remedy = folder / "config.json", f"Give the folder of {HUB_IDS[clip]}, or another --clip."
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        vision = content.get("vision_config") or {}
        patch, dim = vision.get("patch_size"), content.get("projection_dim")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(path, "the config of a CLIP model", str(error), remedy) from error
    if patch in _PATCHES.values() and patch != _PATCHES[clip]:
        raise DataError(path, f"{clip}, patches of {_PATCHES[clip]} pixels", f"{patch}", remedy)
    if dim in _DIMS.values() and dim != _DIMS[clip]:
        raise DataError(path, f"{clip}, vectors of {_DIMS[clip]} numbers", f"{dim}", remedy)
