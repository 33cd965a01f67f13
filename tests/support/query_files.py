"""One hand-made file per query format, with the records that readers must return."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from data.queries.formats import FormatName
from data.queries.prompts import IdSpace


class Known(NamedTuple):
    """The values that a record must be read as."""

    scene_id: str
    text: str
    task: str
    raw_ids: tuple[int, ...]
    object_name: str


class Sample(NamedTuple):
    """The records of a file, the expected records, and the kind of its ids."""

    records: list[dict[str, Any]]
    known: list[Known]
    id_space: IdSpace | None
    scene_key: str
    text_key: str
    ids_key: str
    loose: bool = True
    least: int = 1
    most: int | None = None


def _surprise(ids: Any, kind: str, text: str, ann_id: int) -> dict[str, Any]:
    return {
        "scene_id": "355e5e32db",
        "object_id": ids,
        "ann_id": ann_id,
        "description": text,
        "question_type": kind,
    }


SAMPLES: dict[FormatName, Sample] = {
    "instruct3d": Sample(
        [
            {
                "scene_id": "355e5e32db",
                "object_id": [31, 200],
                "object_name": "bed",
                "image": "DSC03393.JPG",
                "description": "where can I sleep?",
            },
            {
                "scene_id": "41b00feddb",
                "object_id": 7,
                "object_name": "office chair",
                "images": ["a.JPG", "b"],
                "description": "a seat",
                "task": "spatial",
            },
            {"scene_id": "s", "object_id": [], "object_name": "cat", "description": "the cat"},
        ],
        [
            Known("355e5e32db", "where can I sleep?", "reasoning", (31, 200), "bed"),
            Known("41b00feddb", "a seat", "spatial", (7,), "office chair"),
            Known("s", "the cat", "reasoning", (), "cat"),
        ],
        None,
        "scene_id",
        "description",
        "object_id",
        loose=False,
        least=0,
    ),
    "reasonseg3d": Sample(
        [
            {"scene_id": "scene0000_00", "question": "Where to sit?", "object_id": [[4], [9]]},
            {
                "scene_id": "scene0000_01",
                "question": "What cools food?",
                "object_id": "12",
                "object_name": "refrigerator",
            },
        ],
        [
            Known("scene0000_00", "Where to sit?", "reasoning", (4, 9), ""),
            Known("scene0000_01", "What cools food?", "reasoning", (12,), "refrigerator"),
        ],
        None,
        "scene_id",
        "question",
        "object_id",
        least=0,
    ),
    "reason3d": Sample(
        [
            {
                "scene_id": "scene0011_00",
                "object_id": 199,
                "object_name": "mattress",
                "question": "Where can one lie down?",
                "type": "scannet",
            },
            {
                "scene_id": "8194nk5LbLH_region3",
                "object_id": 28,
                "object_name": "lamp",
                "question": "What gives light?",
                "type": "mp3d",
            },
        ],
        [
            Known("scene0011_00", "Where can one lie down?", "reasoning", (199,), "mattress"),
            Known("8194nk5LbLH_region3", "What gives light?", "reasoning", (28,), "lamp"),
        ],
        "category",
        "scene_id",
        "question",
        "object_id",
        most=1,
    ),
    "reason3d_search": Sample(
        [
            {
                "scene_name": "8194nk5LbLH_region12",
                "question": "What in the bedroom could I sit on?",
                "object_id": 1200,
            },
            {
                "scene_name": "x8F5xyUWy9e_region0",
                "question": "Where in the kitchen is the water?",
                "object_id": "24",
                "object_name": "sink",
            },
        ],
        [
            Known(
                "8194nk5LbLH_region12",
                "What in the bedroom could I sit on?",
                "search",
                (1200,),
                "",
            ),
            Known(
                "x8F5xyUWy9e_region0", "Where in the kitchen is the water?", "search", (24,), "sink"
            ),
        ],
        "category",
        "scene_name",
        "question",
        "object_id",
        most=1,
    ),
    "scanrefer": Sample(
        [
            {
                "scene_id": "scene0000_00",
                "object_id": "0",
                "object_name": "office_chair",
                "ann_id": "3",
                "description": "the chair nearest the door",
                "token": ["the", "chair"],
            },
            {
                "scene_id": "scene0000_00",
                "object_id": "129",
                "object_name": "table",
                "ann_id": "0",
                "description": "a low table",
                "token": [],
            },
        ],
        [
            Known("scene0000_00", "the chair nearest the door", "referring", (0,), "office_chair"),
            Known("scene0000_00", "a low table", "referring", (129,), "table"),
        ],
        "objectId",
        "scene_id",
        "description",
        "object_id",
        most=1,
    ),
    "multi3drefer": Sample(
        [
            {
                "scene_id": "scene0011_00",
                "object_ids": [5, 0, 33],
                "object_name": "chair",
                "ann_id": "0",
                "eval_type": "mt",
                "description": "the chairs",
            },
            {
                "scene_id": "scene0011_00",
                "object_ids": [],
                "object_name": "piano",
                "ann_id": "1",
                "eval_type": "zt_wo_d",
                "description": "the piano",
            },
            {
                "scene_id": "scene0011_01",
                "object_ids": [2],
                "object_name": "desk",
                "ann_id": "2",
                "eval_type": "st_w_d",
                "description": "the left desk",
            },
        ],
        [
            Known("scene0011_00", "the chairs", "mt", (5, 0, 33), "chair"),
            Known("scene0011_00", "the piano", "zt_wo_d", (), "piano"),
            Known("scene0011_01", "the left desk", "st_w_d", (2,), "desk"),
        ],
        "objectId",
        "scene_id",
        "description",
        "object_ids",
        least=2,
    ),
    "intent3d": Sample(
        [
            {"scan_id": "scene0000_00", "utterance": "I want to rest my back", "target_id": [6, 7]},
            {
                "scene_id": "scene0000_01",
                "description": "I want to read",
                "object_ids": [["3"], [4, [3]]],
                "object_name": "lamp",
            },
        ],
        [
            Known("scene0000_00", "I want to rest my back", "intent", (6, 7), ""),
            Known("scene0000_01", "I want to read", "intent", (3, 4), "lamp"),
        ],
        None,
        "scan_id",
        "utterance",
        "target_id",
    ),
    "surprise3d": Sample(
        [
            _surprise(40000, "cs", "something to write on", 0),
            _surprise([8, 9], "first_view", "what is on my left?", 1),
        ],
        [
            Known("355e5e32db", "something to write on", "cs", (40000,), ""),
            Known("355e5e32db", "what is on my left?", "first_view", (8, 9), ""),
        ],
        "objectId",
        "scene_id",
        "description",
        "object_id",
    ),
}


def write(path: Path, records: Any) -> Path:
    path.write_text(json.dumps(records))
    return path
