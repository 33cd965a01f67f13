"""Read and write queries, the trees of those that relate things, and their ground truth.

``prompts.json`` holds queries and searches, ``truths.json`` their ground truth, and ``trees.json``
the trees (``data.queries.relation_trees``). Stages that must not see labels read only the first and
the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from data.artifacts.store import check_files, write_text_atomic
from data.errors import ArtifactError, DataError
from data.queries.hierarchical_search import Search
from data.queries.relation_trees import Phrase, tree_from_json, tree_to_json
from data.types import Prompt, PromptTruth

SCHEMA_VERSION = 2
PROMPTS_FILE = "prompts.json"
TRUTHS_FILE = "truths.json"
TREES_FILE = "trees.json"
_REMEDY = "Run PreparePrompts again."
_LISTS = ("rooms", "signs")


def write_prompts(
    folder: Path,
    prompts: Mapping[str, Sequence[Prompt]],
    truths: Iterable[PromptTruth],
    id_space: str,
    lacking: Mapping[str, Sequence[int]] | None = None,
    searches: Mapping[str, Sequence[Search]] | None = None,
) -> None:
    """Write both files; ``prompts`` and ``searches`` are by split.

    ``truths.json`` also records ``id_space`` (``data.queries.prompts.IdSpace``) and ``lacking``:
    by prompt id, the object ids that its scene does not have.
    """
    rows = {
        truth.prompt_id: {key: value for key, value in asdict(truth).items() if key != "prompt_id"}
        for truth in truths
    }
    splits = {name: [asdict(prompt) for prompt in split] for name, split in prompts.items()}
    lacking_entry = {"lacking": {key: list(ids) for key, ids in lacking.items()}} if lacking else {}
    _write(folder / TRUTHS_FILE, {"id_space": id_space, **lacking_entry, "truths": rows})
    search_rows = {
        name: [asdict(search) for search in split] for name, split in (searches or {}).items()
    }
    _write(folder / PROMPTS_FILE, {"splits": splits, "searches": search_rows})


def read_prompts(folder: Path) -> dict[str, list[Prompt]]:
    """Read the queries by split, without labels; ArtifactError when they cannot be read."""
    path = folder / PROMPTS_FILE
    splits = _read(path, "splits")
    try:
        return {name: [Prompt(**row) for row in rows] for name, rows in splits.items()}
    except TypeError as error:
        raise ArtifactError(path, "prompts of this schema", str(error), _REMEDY) from error


def read_searches(folder: Path) -> dict[str, list[Search]]:
    """Read the searches by split, without labels; ArtifactError when they cannot be read."""
    path = folder / PROMPTS_FILE
    splits = _read(path, "searches")
    try:
        return {
            name: [Search(**{**row, **{key: tuple(row[key]) for key in _LISTS}}) for row in rows]
            for name, rows in splits.items()
        }
    except (TypeError, KeyError) as error:
        raise ArtifactError(path, "searches of this schema", str(error), _REMEDY) from error


def read_truths(folder: Path) -> dict[str, PromptTruth]:
    """Read the target objects of each query, by prompt id; for evaluation and oracles only.

    Raises ArtifactError when they cannot be read.
    """
    path = folder / TRUTHS_FILE
    rows = _read(path, "truths")
    try:
        return {
            prompt_id: PromptTruth(
                prompt_id,
                tuple(row["object_ids"]),
                row["object_name"],
                tuple(row["answers"]),
                row["scene_id"],
            )
            for prompt_id, row in rows.items()
        }
    except (TypeError, KeyError) as error:
        raise ArtifactError(path, "truths of this schema", str(error), _REMEDY) from error


def write_trees(folder: Path, trees: Mapping[str, Phrase]) -> None:
    """Write ``trees.json``: the trees of the queries that relate things, by prompt id."""
    rows = {prompt_id: tree_to_json(tree) for prompt_id, tree in trees.items()}
    _write(folder / TREES_FILE, {"trees": rows})


def read_trees(folder: Path) -> dict[str, Phrase]:
    """Read the trees by prompt id; ArtifactError when they cannot be read."""
    path = folder / TREES_FILE
    try:
        return {key: tree_from_json(row, str(path)) for key, row in _read(path, "trees").items()}
    except DataError as error:
        raise ArtifactError(
            path, error.args[1], error.args[2], "Run ParseQueries again."
        ) from error


def _write(path: Path, content: dict[str, Any]) -> None:
    content = {"schema_version": SCHEMA_VERSION, **content}
    write_text_atomic(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def _read(path: Path, key: str) -> dict[str, Any]:
    check_files(path.parent, _REMEDY)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ArtifactError(path, f"a JSON file of {key}", str(error), _REMEDY) from error
    fits = isinstance(content, dict) and content.get("schema_version") == SCHEMA_VERSION
    if not fits or not isinstance(content.get(key), dict):
        found = "JSON of another schema"
        raise ArtifactError(path, f"{key} of schema {SCHEMA_VERSION}", found, _REMEDY)
    return dict(content[key])
