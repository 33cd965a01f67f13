"""Read and write the answers that are not masks: answers in words, and rooms of searches.

``answers.json`` (stage AnswerQuestions) holds one answer in words for each query;
``rooms.json`` (stage FindRooms) holds the room that was chosen for each search.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.artifacts.store import require_complete, write_text_atomic
from data.errors import ArtifactError

ANSWERS_VERSION = 1
ANSWERS_FILE = "answers.json"
_ANSWERS_REMEDY = "Run AnswerQuestions again."


@dataclass(frozen=True)
class AnswerInWords:
    """One query's answer in words, on which the teacher's views voted.

    ``share`` in [0, 1] is the fraction of the vote that agrees with the answer, ``view_ids`` are
    the views that agree, largest weight first; ``num_points`` is the size of the answer's mask.
    """

    prompt_id: str
    answer: str
    share: float
    view_ids: tuple[str, ...]
    num_points: int


def write_answers(folder: Path, answers: Sequence[AnswerInWords]) -> None:
    """Write ``answers.json`` into ``folder``."""
    rows = [asdict(answer) for answer in answers]
    content = {"schema_version": ANSWERS_VERSION, "answers": rows}
    write_text_atomic(
        folder / ANSWERS_FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    )


def read_answers(folder: Path) -> dict[str, AnswerInWords]:
    """Read the answers, by prompt id; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _ANSWERS_REMEDY)
    try:
        content = json.loads((folder / ANSWERS_FILE).read_text(encoding="utf-8"))
        rows = [
            AnswerInWords(**{**r, "view_ids": tuple(r["view_ids"])}) for r in content["answers"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            folder / ANSWERS_FILE, "answers of this schema", found, _ANSWERS_REMEDY
        ) from error
    return {row.prompt_id: row for row in rows}


ROOMS_VERSION = 1
ROOMS_FILE = "rooms.json"
_ROOMS_REMEDY = "Run FindRooms again."


@dataclass(frozen=True)
class RoomChoice:
    """The room (scene id) that the masks of one source choose for a search.

    ``room`` is "" where no room has a likelihood above 0. ``likely`` is each room's likelihood
    in [0, 1], by scene id.
    """

    search_id: str
    source: str
    room: str
    likely: Mapping[str, float]


def write_rooms(folder: Path, choices: Sequence[RoomChoice]) -> None:
    """Write ``rooms.json`` into ``folder``."""
    rows = [asdict(choice) for choice in choices]
    text = json.dumps({"schema_version": ROOMS_VERSION, "choices": rows}, indent=1) + "\n"
    write_text_atomic(folder / ROOMS_FILE, text)


def read_rooms(folder: Path) -> dict[tuple[str, str], RoomChoice]:
    """Read the choices, by (search id, source); ArtifactError when the artifact cannot be read."""
    require_complete(folder, _ROOMS_REMEDY)
    try:
        content = json.loads((folder / ROOMS_FILE).read_text(encoding="utf-8"))
        choices = [RoomChoice(**row) for row in content["choices"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(
            folder / ROOMS_FILE, "rooms of this schema", found, _ROOMS_REMEDY
        ) from error
    return {(choice.search_id, choice.source): choice for choice in choices}
