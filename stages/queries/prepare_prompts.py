"""Stage ``prepare_prompts``: turn query records, or bare sentences, into prompts and truths."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from data.errors import DataError
from data.queries.classes import ClassTable, check_names, members_of
from data.queries.hierarchical_search import SEARCH_TASK, Search, read_room_query
from data.queries.prompts import (
    GroupName,
    GroupsOf,
    IdSpace,
    PromptRecord,
    check_id_space,
    decide_id_space,
    object_ids_of,
)
from data.types import Prompt, PromptTruth
from stages.configs import PromptsConfig


@dataclass(frozen=True)
class PreparedPrompts:
    """``prompts`` by split, one truth for each prompt, and the id space of the query files.

    Without truths the id space is "none".

    ``unreadable`` holds scenes whose annotation cannot be read, with the reason: their queries are
    omitted, and preparing such a scene raises the same error. ``lacking`` holds by prompt the ids
    that a scene does not have, in formats where that may occur. ``other_datasets`` counts the
    queries about data sets of which no split has a scene. ``searches`` by split are queries over
    all rooms of a place; their truths are among the others under their ids.
    """

    prompts: dict[str, list[Prompt]]
    truths: list[PromptTruth]
    id_space: IdSpace | Literal["none"]
    unreadable: dict[str, str]
    lacking: dict[str, tuple[int, ...]]
    other_datasets: dict[str, int]
    searches: dict[str, list[Search]] = field(default_factory=dict)


def run(
    records: Sequence[PromptRecord],
    splits: Mapping[str, Sequence[str]],
    groups_of: GroupsOf,
    cfg: PromptsConfig,
    classes: ClassTable | None = None,
    places: Mapping[str, Sequence[str]] | None = None,
) -> PreparedPrompts:
    """Assign records to splits by their scene and convert their targets to objectIds.

    Args:
        records: the records of all query files in order, all of one format.
        splits: scene ids by split; no scene may be in two splits.
        groups_of: returns the names of a scene's annotated objects (called once per scene).
        cfg: the id space, or the share of names that must agree to find it.
        classes: the meaning of categories, for formats whose targets are categories.
        places: scene ids by place. Records of the task "search" about one of these scenes are
            asked in all scenes of its place. Without places they are ordinary queries.

    Raises:
        DataError: a record names a scene of no split, or an object its scene does not have (unless
            the format allows it); a split has no query; splits share a scene; no id space agrees;
            or categories are used without ``classes``.
    """
    records, other_datasets = _of_these_datasets(records, splits)
    split_of = _split_of_scene(splits, records)

    @functools.cache
    def groups(scene_id: str) -> Sequence[GroupName]:
        return groups_of(scene_id)

    unreadable = _unreadable(records, groups)
    records = [record for record in records if record.scene_id not in unreadable]
    space = _space(records, groups, cfg, classes)
    targets = [_targets(record, space, groups, classes) for record in records]
    _refuse_lacking(records, targets, space)
    prompts: dict[str, list[Prompt]] = {name: [] for name in splits}
    searches: dict[str, list[Search]] = {name: [] for name in splits}
    place_of = {scene: place for place, rooms in (places or {}).items() for scene in rooms}
    truths, lacking = [], {}
    position: Counter[str] = Counter()
    for record, target in zip(records, targets, strict=True):
        split, is_search = split_of[record.scene_id], record.task == SEARCH_TASK
        place = place_of.get(record.scene_id) if is_search else None
        unit = place or record.scene_id
        prompt_id = f"{unit}_{SEARCH_TASK}_" if place else f"{unit}_"
        prompt_id, room = f"{prompt_id}{position[unit]:04d}", record.scene_id if place else ""
        if place:
            searches[split].append(_search(prompt_id, place, position[unit], places, record, cfg))
        else:
            prompts[split].append(Prompt(prompt_id, record.scene_id, record.text, record.task))
        position[unit] += 1
        truth_fields = (target.object_ids, record.object_name, record.answers, room)
        truths.append(PromptTruth(prompt_id, *truth_fields))
        if target.lacking:
            lacking[prompt_id] = target.lacking
    return PreparedPrompts(prompts, truths, space, unreadable, lacking, other_datasets, searches)


def _search(
    search_id: str,
    place: str,
    number: int,
    places: Mapping[str, Sequence[str]] | None,
    record: PromptRecord,
    cfg: PromptsConfig,
) -> Search:
    room_query, rooms = read_room_query(record.text, cfg.rooms), tuple((places or {})[place])
    return Search(search_id, place, number, rooms, record.text, *room_query)


class _Target(NamedTuple):
    """A record's objects, and those of its ids that match no object of its scene."""

    object_ids: tuple[int, ...]
    lacking: tuple[int, ...]


def _space(
    records: Sequence[PromptRecord],
    groups_of: GroupsOf,
    cfg: PromptsConfig,
    classes: ClassTable | None,
) -> IdSpace:
    """Return the id space that is configured, documented or detected, and check it by names."""
    if cfg.id_space != "auto":
        return cfg.id_space
    stated = records[0].id_space if records else None
    if stated is None:
        return decide_id_space(records, groups_of, cfg.min_agreement)
    if stated != "category":
        check_id_space(records, stated, groups_of, cfg.min_agreement)
    elif classes is None:
        raise DataError(
            records[0].source,
            "a list of classes, as this format's targets are categories",
            "none",
            "Name the list in the scene set (classes: FILE).",
        )
    else:
        check_names(records, classes, cfg.min_agreement)
    return stated


def _targets(
    record: PromptRecord, space: IdSpace, groups_of: GroupsOf, classes: ClassTable | None
) -> _Target:
    if space == "category":
        if classes is None:
            raise ValueError("categories without classes")
        members = members_of(record, classes, groups_of)
        return _Target(members, () if members else record.raw_ids)
    object_ids = object_ids_of(record, space, groups_of)
    missing = tuple(raw for raw, object_id in zip(record.raw_ids, object_ids) if object_id is None)
    return _Target(tuple(object_id for object_id in object_ids if object_id is not None), missing)


def _refuse_lacking(
    records: Sequence[PromptRecord], targets: Sequence[_Target], space: IdSpace
) -> None:
    """Raise one DataError for all records whose targets do not exist in their scene."""
    pairs = zip(records, targets, strict=True)
    wrong = [(r, t.lacking) for r, t in pairs if t.lacking and not r.may_lack_objects]
    if not wrong:
        return
    examples = ", ".join(
        f"{list(raw)} of record {record.number} in scene {record.scene_id}"
        for record, raw in wrong[:5]
    )
    raise DataError(
        wrong[0][0].source,
        f"objects that the scenes have (as {space})",
        f"{len(wrong)} records with others: {examples}{', ...' if len(wrong) > 5 else ''}",
        "Check that queries and scans are of the same version (ScanNet++ v1 or v2).",
    )


def _of_these_datasets(
    records: Sequence[PromptRecord], splits: Mapping[str, Sequence[str]]
) -> tuple[Sequence[PromptRecord], dict[str, int]]:
    """Return the records of the splits' data sets, and the numbers of other records.

    Where no scene is known, every record is returned, so that the unknown scene is refused later.
    """
    scenes = {scene_id for names in splits.values() for scene_id in names}
    ours = {record.dataset for record in records if record.scene_id in scenes}
    if not ours:
        return records, {}
    others = Counter(record.dataset for record in records if record.dataset not in ours)
    return [record for record in records if record.dataset in ours], dict(others)


def _unreadable(records: Sequence[PromptRecord], groups_of: GroupsOf) -> dict[str, str]:
    """Return the reasons why annotations cannot be read, by scene."""
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
    """Return the split of each scene; refuse scenes, splits and records that do not match."""
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
        examples = f"{unknown[:10]}{' and more' if len(unknown) > 10 else ''}"
        remedy = "Add these scenes to a split, or remove their queries."
        expected = f"queries about scenes of the splits {list(splits)}"
        source = next(record.source for record in records if record.scene_id == unknown[0])
        raise DataError(source, expected, f"{len(unknown)} unknown: {examples}", remedy)
    used = {split_of[record.scene_id] for record in records}
    for name in splits:
        if name not in used:
            remedy = "Add queries about its scenes."
            raise DataError(source, f"a query for the split {name}", "none", remedy)
    return split_of


TASK = "sentence"


def run_sentences(
    sentences: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Prompt]]:
    """Make prompts by split from bare sentences.

    A scene may be in several splits; its prompts are the same in all of them.

    Args:
        sentences: by split.
        splits: scene ids by split.
    """
    by_scene: dict[str, list[str]] = {}
    for split, scene_ids in splits.items():
        for scene_id in scene_ids:
            scene_texts = by_scene.setdefault(scene_id, [])
            scene_texts += [text for text in sentences[split] if text not in scene_texts]
    prompts = {
        scene_id: [
            Prompt(f"{scene_id}_{number:04d}", scene_id, text, TASK)
            for number, text in enumerate(texts)
        ]
        for scene_id, texts in by_scene.items()
    }
    return {
        split: [prompt for scene_id in scene_ids for prompt in prompts[scene_id]]
        for split, scene_ids in splits.items()
    }
