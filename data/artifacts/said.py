"""Answers in words: ``said.json``, one answer a query with the views and points behind it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from data.artifacts.store import require_complete, write_text_atomic
from data.artifacts.versions import VERSIONS
from data.errors import ArtifactError

SCHEMA_VERSION = VERSIONS["answer_questions"]
FILE = "said.json"
_REMEDY = "Run AnswerQuestions again."


@dataclass(frozen=True)
class Said:
    """What the teacher's views say together.

    ``share`` in [0, 1] is the part of their say that agrees, ``view_ids`` are the views that do,
    the weightiest first; ``num_points`` is the size of the answer's mask.
    """

    prompt_id: str
    answer: str
    share: float
    view_ids: tuple[str, ...]
    num_points: int


def write_said(folder: Path, answers: Sequence[Said]) -> None:
    """Write ``said.json`` into ``folder``."""
    rows = [asdict(answer) for answer in answers]
    content = {"schema_version": SCHEMA_VERSION, "answers": rows}
    write_text_atomic(folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_said(folder: Path) -> dict[str, Said]:
    """Answers by prompt id; ArtifactError when the artifact cannot be read."""
    require_complete(folder, _REMEDY)
    try:
        content = json.loads((folder / FILE).read_text(encoding="utf-8"))
        rows = [Said(**{**r, "view_ids": tuple(r["view_ids"])}) for r in content["answers"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise ArtifactError(folder / FILE, "answers of this schema", found, _REMEDY) from error
    return {row.prompt_id: row for row in rows}
