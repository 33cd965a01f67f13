"""Resolve the object ids of query records, and make prompts of the background vocabulary.

``data.queries.formats`` reads the files. An object id belongs to one of several id spaces
(``IdSpace``). If a format's documentation defines the space, its records carry it, and names are
still compared with labels (``check_id_space``), which detects offsets that loaders add, such as
the 1 of ScanNet's exports. Otherwise the space is decided from the data (``decide_id_space``).
``data.queries.classes`` resolves records that name a category.

The background vocabulary (config key ``bank``) is a fixed list of categories, independent of the
scene. In fusion its masks compete with the queries' masks; the student is trained on them too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from data.errors import DataError, UserError
from data.types import GroundTruth, Prompt, PromptTruth

IdSpace = Literal["position", "id", "objectId", "objectId+1", "category"]
ObjectSpace = Literal["position", "id", "objectId", "objectId+1"]


class GroupName(NamedTuple):
    """An annotated object: its id in each of the three id spaces, and its raw label."""

    position: int
    id: int
    object_id: int
    label: str


GroupsOf = Callable[[str], Sequence[GroupName]]
_SPACES: dict[ObjectSpace, Callable[[GroupName], int]] = {
    "objectId": lambda group: group.object_id,
    "id": lambda group: group.id,
    "position": lambda group: group.position,
    "objectId+1": lambda group: group.object_id + 1,
}
# Id spaces that an undocumented file may use; the first one wins a tie.
_DECIDABLE: tuple[ObjectSpace, ...] = ("objectId", "id", "position")
_VERSION_REMEDY = "Check that queries and scans are of the same version (ScanNet++ v1 or v2)"


@dataclass(frozen=True)
class PromptRecord:
    """One record of a query file, unresolved.

    ``raw_ids`` are in ``id_space``, which is None if the format's documentation does not define
    it. ``object_name`` is "" if the format has none. ``dataset`` is set in files about several
    datasets. ``may_lack_objects`` marks formats that name objects which scenes do not have; such
    a query is kept with its remaining targets. ``answers`` are the correct answers in words, if
    the record has any.
    """

    source: Path
    number: int
    scene_id: str
    text: str
    task: str
    raw_ids: tuple[int, ...]
    object_name: str
    view_ids: tuple[str, ...] = ()
    id_space: IdSpace | None = None
    dataset: str = ""
    may_lack_objects: bool = False
    answers: tuple[str, ...] = ()


def normalized_name(name: str) -> str:
    """Normalise a label or object name for comparison: lower case, blanks as underscores."""
    return "_".join(name.lower().replace("_", " ").split())


def decide_id_space(
    records: Sequence[PromptRecord], groups_of: GroupsOf, min_agreement: float
) -> ObjectSpace:
    """Find the id space in which the records' objects have the label ``object_name``.

    Each record with exactly one id and with a name that is a label of its scene votes. The space
    with the highest agreement wins if it reaches ``min_agreement`` and no other space with the
    same agreement gives any record other objects. Without any record with an id the result is
    "objectId".

    Raises:
        DataError: no space agrees enough, or two agree equally and differ.
    """
    with_ids = [record for record in records if record.raw_ids]
    if not with_ids:
        return "objectId"
    votes, voters = _vote(with_ids, groups_of)
    best = max(_DECIDABLE, key=lambda space: votes[space])
    tied = [space for space in _DECIDABLE if votes[space] == votes[best]]
    agrees = voters > 0 and votes[best] >= min_agreement * voters
    same = all(
        object_ids_of(record, space, groups_of) == object_ids_of(record, best, groups_of)
        for space in tied
        for record in with_ids
    )
    if same and (agrees or voters == 0):
        return best
    raise DataError(
        with_ids[0].source,
        f"object ids and names that agree with the scenes' annotation in one id space"
        f" (at least {min_agreement:.0%})",
        _counts(votes, voters),
        f"{_VERSION_REMEDY}, or set prompts.id_space.",
    )


def check_id_space(
    records: Sequence[PromptRecord],
    space: ObjectSpace,
    groups_of: GroupsOf,
    min_agreement: float,
) -> None:
    """Check that names agree with labels in the id space of the format's documentation.

    Records vote as in ``decide_id_space``, but a record of a format that may lack objects votes
    only if its scene has all of them. A file without a vote is accepted.

    Raises:
        DataError: fewer than ``min_agreement`` of the votes agree, with the counts of all spaces.
    """
    voting_records = [
        record
        for record in records
        if not record.may_lack_objects or None not in object_ids_of(record, space, groups_of)
    ]
    votes, voters = _vote(voting_records, groups_of)
    if votes[space] >= min_agreement * voters:
        return
    raise DataError(
        records[0].source,
        f"object ids in the id space {space} that this format uses, with names that agree with"
        f" the scenes' labels (at least {min_agreement:.0%})",
        _counts(votes, voters),
        f"{_VERSION_REMEDY}, or set prompts.id_space to the space that agrees.",
    )


def _counts(votes: Counter[ObjectSpace], voters: int) -> str:
    spaces: list[ObjectSpace] = [*_DECIDABLE]
    spaces += [space for space in _SPACES if space not in _DECIDABLE and votes[space]]
    return ", ".join(f"{votes[space]} of {voters} as {space}" for space in spaces)


def _vote(records: Sequence[PromptRecord], groups_of: GroupsOf) -> tuple[Counter[ObjectSpace], int]:
    votes: Counter[ObjectSpace] = Counter()
    voters = 0
    for record in records:
        name = normalized_name(record.object_name)
        groups = groups_of(record.scene_id)
        same_name = [group for group in groups if normalized_name(group.label) == name]
        if len(record.raw_ids) != 1 or not same_name:
            continue
        voters += 1
        for space, key in _SPACES.items():
            votes[space] += any(key(group) == record.raw_ids[0] for group in same_name)
    return votes, voters


def object_ids_of(
    record: PromptRecord, space: ObjectSpace, groups_of: GroupsOf
) -> tuple[int | None, ...]:
    """Convert the record's ids to objectIds; None for an id that the scene does not have."""
    key = _SPACES[space]
    table: Mapping[int, int] = {key(g): g.object_id for g in groups_of(record.scene_id)}
    return tuple(table.get(raw) for raw in record.raw_ids)


BANK_TASK = "bank"
ATOM_TASK = "atom"
"""Task of the phrases of trees (``data.queries.relation_trees``), asked beside the queries."""


def bank_text(category: str) -> str:
    """Return the query text of a category of the background vocabulary."""
    return f"the {category}"


def bank_prompts(categories: Sequence[str], scene_id: str) -> list[Prompt]:
    """Make one prompt per category of the background vocabulary, in order; no query has its id."""
    return [
        Prompt(f"{_start(scene_id)}{number:03d}", scene_id, bank_text(category), BANK_TASK)
        for number, category in enumerate(categories)
    ]


def is_of_bank(prompt_id: str, scene_id: str) -> bool:
    """Whether a scene's prompt belongs to the background vocabulary and not to a query."""
    return prompt_id.startswith(_start(scene_id))


def _start(scene_id: str) -> str:
    return f"{scene_id}_{BANK_TASK}_"


def check_sentence(text: str) -> None:
    """Raise UserError for a sentence that is blank or no Unicode text."""
    if not text.strip():
        raise UserError("the query is empty: type a sentence, such as: where can I sit?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the query {text!r} is no Unicode text: type it again") from error


def target_ids(
    scene_id: str, prompt: Prompt, truths: Mapping[str, PromptTruth], ground_truth: GroundTruth
) -> tuple[int, ...]:
    """Return the ids of the query's target objects, () for an absent one; ``truths`` by prompt id.

    Raises DataError for a query without truth or of another scene, and for a truth that names an
    object that the scene does not have.
    """
    where = f"scene {scene_id}, query {prompt.prompt_id}"
    truth = truths.get(prompt.prompt_id)
    if truth is None or prompt.scene_id != scene_id:
        found = "none" if truth is None else f"a query about scene {prompt.scene_id}"
        raise DataError(where, "a query of this scene with its truth", found, "Mend the prompts.")
    unknown = sorted(set(truth.object_ids) - set(ground_truth.object_ids))
    if unknown:
        annotated = ", ".join(str(object_id) for object_id in ground_truth.object_ids) or "none"
        raise DataError(
            where,
            f"object ids annotated in the scene ({annotated})",
            ", ".join(str(object_id) for object_id in unknown),
            "Correct the query's object ids, or check that prompts and annotation belong to the "
            "same version of the dataset.",
        )
    return truth.object_ids
