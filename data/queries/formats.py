"""Read query files: one reader for each format, all listed in ``FORMATS``.

A new format needs a reader, a name in ``FormatName``, a line in ``FORMATS``, and the rule by
which its queries are scored (``stages.evaluation.benchmarks``). ``SENTENCES`` is not a
benchmark's format but a list of sentences without ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

from data.errors import DataError
from data.jsonio import read_json, read_text
from data.queries.entries import Entry, log, read_records
from data.queries.prompts import PromptRecord


def read_instruct3d(path: Path) -> list[PromptRecord]:
    """Read Instruct3D's records; this project's query files have the same format.

    The file is a list of ``{scene_id, object_id, object_name, description, image | images,
    task}``. ``object_id`` is an integer or a list (empty: the object is absent); ``task`` is
    "reasoning" if it is missing; ``answer`` or ``answers`` are correct answers in words, for
    records that are questions. The id space of ``object_id`` is not documented, so it is decided
    from the data. Raises DataError as ``read_records`` does.
    """
    return read_records(path, "Instruct3D", _instruct3d_record)


def _instruct3d_record(entry: Entry) -> PromptRecord:
    scene_id, text, name = (entry.text(key) for key in ("scene_id", "description", "object_name"))
    images = entry.content.get("images", entry.content.get("image", []))
    images = images if isinstance(images, list) else [images]
    if not all(isinstance(image, str) for image in images):
        raise entry.wrong("image names as image or images", images)
    return PromptRecord(
        entry.path,
        entry.number,
        scene_id,
        text,
        entry.text_or("task", "reasoning"),
        entry.ids("object_id", least=0),
        name,
        tuple(PurePosixPath(image).stem for image in images),
        answers=entry.texts("answers", "answer"),
    )


def read_intent3d(path: Path) -> list[PromptRecord]:
    """Read Intent3D's records ``{scan_id, utterance, target_id}``: intentions in ScanNet scenes.

    Files derived from it for this method have ``{scene_id, description, object_ids}`` instead,
    with ids in nested lists. Both are read, and all ids are targets. The id space is not
    documented, so it is decided from the data. If a file has no names (``object_name |
    target``), this works only where all id spaces agree; otherwise the user sets
    ``prompts.id_space``. Raises DataError as ``read_records`` does.
    """
    return read_records(path, "Intent3D", _intent3d_record)


def _intent3d_record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scan_id", "scene_id"),
        entry.text("utterance", "description"),
        "intent",
        entry.ids("target_id", "object_ids", "object_id", loose=True),
        entry.optional("object_name", "target"),
    )


# Smallest and largest number of targets of each type: zero, single or multiple targets, with (w)
# or without (wo) distractors (d).
EVAL_TYPES: dict[str, tuple[int, int | None]] = {
    "zt_w_d": (0, 0),
    "zt_wo_d": (0, 0),
    "st_w_d": (1, 1),
    "st_wo_d": (1, 1),
    "mt": (2, None),
}


def read_multi3drefer(path: Path) -> list[PromptRecord]:
    """Read Multi3DRefer: ``{scene_id, object_ids, object_name, ann_id, eval_type, description}``.

    ``object_ids`` are zero or more ``objectId`` of ScanNet's aggregation file, as in ScanRefer.
    ``eval_type`` gives the number of targets and whether the scene has distractors of the same
    class; it becomes the record's task. Raises DataError as ``read_records`` does, and for a
    number of ids that the type does not allow.
    """
    return read_records(path, "Multi3DRefer", _multi3drefer_record)


def _multi3drefer_record(entry: Entry) -> PromptRecord:
    eval_type = entry.choice("eval_type", tuple(EVAL_TYPES))
    least, most = EVAL_TYPES[eval_type]
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        eval_type,
        entry.ids("object_ids", least=least, most=most, loose=True),
        entry.text("object_name"),
        id_space="objectId",
    )


DATASETS = ("scannet", "mp3d")


def read_reason3d(path: Path) -> list[PromptRecord]:
    """Read Reason3D's reasoning queries: ``{scene_id, object_id, object_name, question, type}``.

    ``object_id`` is a category, not an object: the position in ScanNet200's list of classes or,
    if ``type`` is mp3d, the index in Matterport3D's ``category_mapping.tsv``. The target is every
    instance of the category. One file holds the records of both datasets, and all are returned.
    Raises DataError as ``read_records`` does.
    """
    return read_records(path, "Reason3D", _reason3d_record)


def _reason3d_record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("question"),
        "reasoning",
        entry.ids("object_id", most=1, loose=True),
        entry.text("object_name"),
        id_space="category",
        dataset=entry.choice("type", DATASETS),
    )


_REGION = re.compile(r"[A-Za-z0-9]+_region[0-9]+")
# Words by which questions name the room types of Matterport3D's house files.
_ROOMS = (
    *("bathroom", "bedroom", "closet", "dining", "entry", "family", "garage", "hall", "library"),
    *("laundry", "kitchen", "living", "conference", "lounge", "office", "porch", "terrace"),
    *("game", "rec room", "stairs", "toilet", "utility", "tv", "theater", "gym", "workout"),
    *("outdoor", "balcony", "room", "bar", "booth", "spa", "junk", "deck"),
)


def read_reason3d_search(path: Path) -> list[PromptRecord]:
    """Read Reason3D's hierarchical search in Matterport3D: ``{scene_name, question, object_id}``.

    ``scene_name`` is ``<house>_region<N>``, the room that contains the answer; the question names
    the type of room. ``object_id`` is a category, as in ``read_reason3d``, of which the instances
    in that room are the target. Records have no object name, so a wrong list of classes is not
    detected here. Questions that name no room are kept, and their number is logged.

    Raises:
        DataError: as ``read_records``, and for a scene that is no region of a house.
    """
    records = read_records(path, "Reason3D's search", _reason3d_search_record)
    nowhere = sum(not any(room in record.text.lower() for room in _ROOMS) for record in records)
    if nowhere:
        log.warning("%s: %d questions name no room; all kept", path, nowhere)
    return records


def _reason3d_search_record(entry: Entry) -> PromptRecord:
    scene_id = entry.text("scene_name")
    if not _REGION.fullmatch(scene_id):
        raise entry.wrong("<house>_region<N> as scene_name", scene_id)
    return PromptRecord(
        entry.path,
        entry.number,
        scene_id,
        entry.text("question"),
        "search",
        entry.ids("object_id", most=1, loose=True),
        entry.optional("object_name"),
        id_space="category",
    )


def read_reasonseg3d(path: Path) -> list[PromptRecord]:
    """Read ReasonSeg3D (MORE3D): questions about ScanNet scenes with one or more target objects.

    This reader was written without access to the published files. It reads the fields that such
    files share: ``{scene_id, object_id | object_ids, question | description}``, an optional
    ``object_name``, and ``answer`` or ``answers`` in words. The union of the objects is one
    target. The id space is not documented, so it is decided from the data. Raises DataError as
    ``read_records`` does.
    """
    return read_records(path, "ReasonSeg3D", _reasonseg3d_record)


def _reasonseg3d_record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("question", "description"),
        "reasoning",
        entry.ids("object_id", "object_ids", least=0, loose=True),
        entry.optional("object_name"),
        answers=entry.texts("answers", "answer"),
    )


def read_scanrefer(path: Path) -> list[PromptRecord]:
    """Read ScanRefer: ``{scene_id, object_id, object_name, ann_id, description, token}``.

    ``object_id`` is one ``objectId`` of ScanNet's aggregation file, from 0 on, as text. Some
    loaders store objectId + 1 (0 = none); a query file with such ids is refused, because its
    names do not agree with the annotation. Raises DataError as ``read_records`` does.
    """
    return read_records(path, "ScanRefer", _scanrefer_record)


def _scanrefer_record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        "referring",
        entry.ids("object_id", most=1, loose=True),
        entry.text("object_name"),
        id_space="objectId",
    )


def read_surprise3d(path: Path) -> list[PromptRecord]:
    """Read SURPRISE3D: ``{scene_id, object_id, ann_id, description, question_type}``, ScanNet++ v2.

    ``object_id`` is one or more ``objectId`` of ``segments_anno.json``. The point files that its
    authors prepared hold only objects of listed classes and lack many ids; here the ground truth
    comes from the annotation. A query with ids that the annotation lacks is kept with its
    remaining targets, and reported. ``question_type`` becomes the record's task. Raises DataError
    as ``read_records`` does.
    """
    return read_records(path, "SURPRISE3D", _surprise3d_record)


def _surprise3d_record(entry: Entry) -> PromptRecord:
    return PromptRecord(
        entry.path,
        entry.number,
        entry.text("scene_id"),
        entry.text("description"),
        entry.text("question_type"),
        entry.ids("object_id", loose=True),
        entry.optional("object_name"),
        id_space="objectId",
        may_lack_objects=True,
    )


_REMEDY = "Give one sentence a line in a .txt file, or a JSON list of them in a .json file."


def read_sentences(path: Path) -> list[str]:
    """Read sentences from a .txt or .json file, in the file's order, stripped, each once.

    Raises:
        DataError: the file is missing or damaged, has no sentence, or has an entry that is no text.
    """
    what = "a file of sentences"
    if path.suffix.lower() == ".json":
        lines = _strings(read_json(path, what, _REMEDY), path)
    else:
        lines = read_text(path, what, _REMEDY).splitlines()
    sentences = [line.strip() for line in lines if line.strip()]
    if not sentences:
        raise DataError(path, "a sentence", "none", _REMEDY)
    return list(dict.fromkeys(sentences))


def _strings(content: Any, path: Path) -> list[str]:
    if not isinstance(content, list):
        raise DataError(path, "a JSON list of sentences", type(content).__name__, _REMEDY)
    for number, entry in enumerate(content):
        if not isinstance(entry, str):
            raise DataError(path, f"a text as sentence {number}", ascii(entry)[:60], _REMEDY)
        try:
            entry.encode()
        except UnicodeEncodeError:  # JSON may hold half of a surrogate pair.
            expected = f"Unicode text as sentence {number}"
            raise DataError(path, expected, ascii(entry)[:60], _REMEDY) from None
    return content


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
    """A format's reader, and the keys that may hold the scene of a record."""

    reader: Callable[[Path], list[PromptRecord]]
    scene_keys: tuple[str, ...] = ("scene_id",)

    def read(self, path: Path) -> list[PromptRecord]:
        """Read every record of a file, in its order; DataError for a missing or damaged file."""
        return self.reader(path)


FORMATS: Mapping[FormatName, QueryFormat] = {
    "instruct3d": QueryFormat(read_instruct3d),
    "reasonseg3d": QueryFormat(read_reasonseg3d),
    "reason3d": QueryFormat(read_reason3d),
    "reason3d_search": QueryFormat(read_reason3d_search, ("scene_name",)),
    "scanrefer": QueryFormat(read_scanrefer),
    "multi3drefer": QueryFormat(read_multi3drefer),
    "intent3d": QueryFormat(read_intent3d, ("scan_id", "scene_id")),
    "surprise3d": QueryFormat(read_surprise3d),
}
