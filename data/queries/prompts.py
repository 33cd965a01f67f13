"""Records of query files, the objects and sentences in them, and the background vocabulary.

How a file is laid out is the business of ``data.queries.formats``. An id belongs to one of several
spaces (``IdSpace``). Where a format's documentation says which, its records carry it, and names
are compared with labels all the same (``check_id_space``): what loaders add to an id, such as the
1 of ScanNet's exports, is found that way. Where it says nothing it is decided from the data: see
``decide_id_space``. Records that name a category are resolved by ``data.queries.classes``.

It is a fixed list, so it tells nothing of what a scene holds. In fusion its masks are rivals of
the queries' masks; for the student they are further lessons.
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
    """An annotated object in its three id spaces, with its raw label."""

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
# What an undocumented file may mean; ties go to the first.
_DECIDABLE: tuple[ObjectSpace, ...] = ("objectId", "id", "position")
_VERSION_REMEDY = "Check that queries and scans are of the same version (ScanNet++ v1 or v2)"


@dataclass(frozen=True)
class PromptRecord:
    """One record as it stands in its file.

    ``raw_ids`` are in ``id_space``, which is None where the format's documentation does not
    say. ``object_name`` is "" where a format has none. ``dataset`` is set in files about several
    datasets. ``may_lack_objects``: the format is known to name objects that scenes do not have;
    such a query stays, with what is left of its targets. ``answers`` are the right answers in
    words, where a record has some.
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
    """Lower case, underscores for blanks: labels and object names are compared like this."""
    return "_".join(name.lower().replace("_", " ").split())


def decide_id_space(
    records: Sequence[PromptRecord], groups_of: GroupsOf, min_agreement: float
) -> ObjectSpace:
    """The id space in which records name objects whose label is their ``object_name``.

    Records with exactly one id and a name that is some label of their scene vote. The space
    with the highest agreement wins when it reaches ``min_agreement`` and no other space with
    the same agreement would give any record other objects. Without a single record that
    names an object the answer is "objectId".

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
    """Compare names and labels in the space that the format's documentation states.

    Records vote as in ``decide_id_space``; of those that may lack their objects only those that
    do not. A file without a vote is believed.

    Raises:
        DataError: fewer than ``min_agreement`` of the votes agree, with the counts of all spaces.
    """
    telling = [
        record
        for record in records
        if not record.may_lack_objects or None not in object_ids_of(record, space, groups_of)
    ]
    votes, voters = _vote(telling, groups_of)
    if votes[space] >= min_agreement * voters:
        return
    raise DataError(
        records[0].source,
        f"object ids that are each scene's {space}, as this format has them, with names that"
        f" agree (at least {min_agreement:.0%})",
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
        named = [group for group in groups if normalized_name(group.label) == name]
        if len(record.raw_ids) != 1 or not named:
            continue
        voters += 1
        for space, key in _SPACES.items():
            votes[space] += any(key(group) == record.raw_ids[0] for group in named)
    return votes, voters


def object_ids_of(
    record: PromptRecord, space: ObjectSpace, groups_of: GroupsOf
) -> tuple[int | None, ...]:
    """The record's ids as objectIds; None for an id the scene does not have."""
    key = _SPACES[space]
    table: Mapping[int, int] = {key(g): g.object_id for g in groups_of(record.scene_id)}
    return tuple(table.get(raw) for raw in record.raw_ids)


BANK_TASK = "bank"


def bank_text(category: str) -> str:
    """The words with which a category is asked for."""
    return f"the {category}"


def bank_prompts(categories: Sequence[str], scene_id: str) -> list[Prompt]:
    """One prompt per category, in the list's order, with ids that no query has."""
    return [
        Prompt(f"{_start(scene_id)}{number:03d}", scene_id, bank_text(category), BANK_TASK)
        for number, category in enumerate(categories)
    ]


def is_of_bank(prompt_id: str, scene_id: str) -> bool:
    """Whether an id of one of the scene's prompts is a bank category's, not a query's."""
    return prompt_id.startswith(_start(scene_id))


def _start(scene_id: str) -> str:
    return f"{scene_id}_{BANK_TASK}_"


def check_sentence(text: str) -> None:
    """Raise UserError for a sentence that nothing can be answered to."""
    if not text.strip():
        raise UserError("the query is empty: type a sentence, such as: where can I sit?")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"the query {text!r} is no Unicode text: type it anew") from error


def target_ids(
    scene_id: str, prompt: Prompt, truths: Mapping[str, PromptTruth], ground_truth: GroundTruth
) -> tuple[int, ...]:
    """Ids of the query's objects, none for an absent one; ``truths`` is by prompt id.

    Raises DataError for a query without truth or about another scene, and for a truth that
    names an object the scene does not have.
    """
    place = f"scene {scene_id}, query {prompt.prompt_id}"
    truth = truths.get(prompt.prompt_id)
    if truth is None or prompt.scene_id != scene_id:
        found = "none" if truth is None else f"a query about scene {prompt.scene_id}"
        raise DataError(place, "a query of this scene with its truth", found, "Mend the prompts.")
    unknown = sorted(set(truth.object_ids) - set(ground_truth.object_ids))
    if unknown:
        known = ", ".join(str(object_id) for object_id in ground_truth.object_ids) or "none"
        raise DataError(
            place,
            f"object ids annotated in the scene ({known})",
            ", ".join(str(object_id) for object_id in unknown),
            "Mend the query's object ids, or check that prompts and annotation are of the same "
            "data set version.",
        )
    return truth.object_ids
