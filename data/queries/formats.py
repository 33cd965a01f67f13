"""Query files: one reader a format, all in the table ``FORMATS``.

A format is added by its reader, its name in ``FormatName``, its line in ``FORMATS``, and the rule
its queries are scored by (``stages.evaluation.benchmarks``). ``SENTENCES`` is no format of a
benchmark: words alone, of which no truth is known.
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
    """Instruct3D, and what this project's own query files look like.

    A list of records ``{scene_id, object_id, object_name, description, image | images, task}``;
    ``object_id`` is one integer or a list (empty: the object is absent), ``task`` is "reasoning"
    where it is not given, and ``answer`` or ``answers`` are right answers in words, for records
    that are questions. Which id space ``object_id`` belongs to is nowhere written, so it is decided
    from the data.

    Every record; DataError as of ``read_records``.
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
    """Intent3D: ``{scan_id, utterance, target_id}``, an intention that ScanNet objects serve.

    Files made from it for this method say ``{scene_id, description, object_ids}`` instead, with ids
    in lists of lists; both are read, and all ids named are targets. Which id space they belong to
    is not documented, so it is decided from the data; where a file has no names (``object_name |
    target``) that works only when the spaces do not differ, and the user says which it is
    (``prompts.id_space``) otherwise.

    Every record; DataError as of ``read_records``.
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


# Least and most targets of each type: zero, single, multiple; with or without distractors.
EVAL_TYPES: dict[str, tuple[int, int | None]] = {
    "zt_w_d": (0, 0),
    "zt_wo_d": (0, 0),
    "st_w_d": (1, 1),
    "st_wo_d": (1, 1),
    "mt": (2, None),
}


def read_multi3drefer(path: Path) -> list[PromptRecord]:
    """Multi3DRefer: ``{scene_id, object_ids, object_name, ann_id, eval_type, description}``.

    ``object_ids`` are none, one or several ``objectId`` of ScanNet's aggregation file, as in
    ScanRefer; ``eval_type`` says how many and whether distractors of the class are there, and is
    the record's task.

    Every record; DataError as of ``read_records``, or for a count its type does not allow.
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
    """Reason3D's reasoning queries: ``{scene_id, object_id, object_name, question, type}``.

    ``object_id`` is no object but a category: the position in the list of ScanNet200's classes, or,
    where ``type`` is mp3d, the index in Matterport3D's ``category_mapping.tsv``. The target is
    every instance of it. One file is about both datasets.

    Every record, of both datasets; DataError as of ``read_records``.
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
# Kinds of rooms of Matterport3D's house files, in the words of questions.
_ROOMS = (
    *("bathroom", "bedroom", "closet", "dining", "entry", "family", "garage", "hall", "library"),
    *("laundry", "kitchen", "living", "conference", "lounge", "office", "porch", "terrace"),
    *("game", "rec room", "stairs", "toilet", "utility", "tv", "theater", "gym", "workout"),
    *("outdoor", "balcony", "room", "bar", "booth", "spa", "junk", "deck"),
)


def read_reason3d_search(path: Path) -> list[PromptRecord]:
    """Reason3D's hierarchical search: ``{scene_name, question, object_id}`` in Matterport3D houses.

    ``scene_name`` is ``<house>_region<N>``, the room the answer is in; the question names the kind
    of room. ``object_id`` is a category, as in ``data.queries.formats``, and counts in that room
    only. There is no object name, so a wrong list of classes cannot be noticed here.

    Every record; questions that name no room are kept and counted in the log.

    Raises:
        DataError: as of ``read_records``; a scene that is no region of a house.
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
    """ReasonSeg3D (MORE3D): questions about ScanNet scenes whose answers may be several objects.

    The files were not published where they could be read, so this takes what the family has in
    common: ``{scene_id, object_id | object_ids, question | description}``, and ``object_name``
    where it is given, ``answer`` or ``answers`` for what is to be said. The answer's objects count
    as one target, their union. As no documentation tells the id space, it is decided from the data.

    Every record; DataError as of ``read_records``.
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
    """ScanRefer: ``{scene_id, object_id, object_name, ann_id, description, token}``.

    ``object_id`` is the text of one ``objectId`` of ScanNet's aggregation file, from 0 on. Loaders
    that store instances as objectId + 1 (0 = none) mean the same object by another number; a query
    file made from such a store is refused, because its names no longer agree.

    Every record; DataError as of ``read_records``.
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
    """SURPRISE3D: ``{scene_id, object_id, ann_id, description, question_type}`` on ScanNet++ v2.

    ``object_id`` is one or several ``objectId`` of ``segments_anno.json``. Its authors' prepared
    point files hold only objects of listed classes, so many ids are not there; here the ground
    truth comes from the annotation itself. What even that lacks stays a query, with what is left of
    its target, and is reported. ``question_type`` is the record's task.

    Every record; DataError as of ``read_records``.
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
    """Sentences in the file's order, each once, without blanks around them.

    Raises:
        DataError: the file is missing, damaged, or holds no sentence or something else.
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
    """A format's reader, and the fields that may name the scene of a record."""

    reader: Callable[[Path], list[PromptRecord]]
    scene_keys: tuple[str, ...] = ("scene_id",)

    def read(self, path: Path) -> list[PromptRecord]:
        """Every record of a file, in its order; DataError for a missing or damaged one."""
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
