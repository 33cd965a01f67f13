"""Stage ``prepare_prompts``: query records to prompts by split and, apart, their truths."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.errors import DataError
from data.prompts import (
    GroupName,
    GroupsOf,
    IdSpace,
    PromptRecord,
    decide_id_space,
    object_ids_of,
)
from data.types import Prompt, PromptTruth
from stages.configs import PromptsConfig


@dataclass(frozen=True)
class PreparedPrompts:
    """``prompts`` by split, one truth a prompt, and the id space the file was found to use.

    ``unreadable`` are the scenes whose annotation cannot be read, with the reason: their
    queries are left out, and preparing the scene itself refuses the same file.
    """

    prompts: dict[str, list[Prompt]]
    truths: list[PromptTruth]
    id_space: IdSpace
    unreadable: dict[str, str]


def run(
    records: Sequence[PromptRecord],
    splits: Mapping[str, Sequence[str]],
    groups_of: GroupsOf,
    cfg: PromptsConfig,
) -> PreparedPrompts:
    """Sort records into splits by their scene and give their targets as objectIds.

    Args:
        records: those of all query files, one file after the other.
        splits: scene ids by split; no scene may be in two.
        groups_of: names of a scene's annotated objects (read once a scene).
        cfg: the id space, or how surely it must be found.

    Raises:
        DataError: a record names a scene of no split or an object its scene does not have,
            a split has no query, splits share a scene, or no id space agrees.
    """
    split_of = _split_of_scene(splits, records)

    @functools.cache
    def groups(scene_id: str) -> Sequence[GroupName]:
        return groups_of(scene_id)

    unreadable = _unreadable(records, groups)
    records = [record for record in records if record.scene_id not in unreadable]
    space = cfg.id_space
    if space == "auto":
        space = decide_id_space(records, groups, cfg.min_agreement)
    prompts: dict[str, list[Prompt]] = {name: [] for name in splits}
    truths = []
    position: Counter[str] = Counter()
    for record in records:
        prompt_id = f"{record.scene_id}_{position[record.scene_id]:04d}"
        position[record.scene_id] += 1
        prompt = Prompt(prompt_id, record.scene_id, record.text, record.task)
        prompts[split_of[record.scene_id]].append(prompt)
        targets = object_ids_of(record, space, groups)
        truths.append(PromptTruth(prompt_id, targets, record.object_name))
    return PreparedPrompts(prompts, truths, space, unreadable)


def _unreadable(records: Sequence[PromptRecord], groups_of: GroupsOf) -> dict[str, str]:
    """Why the annotation of a scene cannot be read, by scene; one bad scan stops no other."""
    reasons = {}
    for scene_id in sorted({record.scene_id for record in records}):
        try:
            groups_of(scene_id)
        except DataError as error:
            reasons[scene_id] = str(error)
    return reasons


def _split_of_scene(
    splits: Mapping[str, Sequence[str]], records: Sequence[PromptRecord]
) -> dict[str, str]:
    """Split by scene, once scenes, splits and records have been found to fit each other."""
    source = records[0].source if records else "queries"
    split_of: dict[str, str] = {}
    for name, scene_ids in splits.items():
        shared = sorted(set(scene_ids) & set(split_of))
        if shared:
            expected = f"splits without common scenes, {name} apart from {split_of[shared[0]]}"
            raise DataError(name, expected, str(shared[:5]), "Take them out of one split.")
        split_of.update({scene_id: name for scene_id in scene_ids})
    unknown = sorted({r.scene_id for r in records if r.scene_id not in split_of})
    if unknown:
        shown = f"{unknown[:10]}{' and more' if len(unknown) > 10 else ''}"
        remedy = "Add these scenes to a split, or remove their queries."
        expected = f"queries about scenes of the splits {list(splits)}"
        source = next(record.source for record in records if record.scene_id == unknown[0])
        raise DataError(source, expected, f"{len(unknown)} unknown: {shown}", remedy)
    used = {split_of[record.scene_id] for record in records}
    for name in splits:
        if name not in used:
            remedy = "Add queries about its scenes."
            raise DataError(source, f"a query for the split {name}", "none", remedy)
    return split_of
