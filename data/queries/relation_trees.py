"""Trees of sentences that relate things to each other, and their JSON form.

"the black chair between the desk and the second window from the left" is the tree

    {"head": "black chair",
     "relations": [{"name": "between", "anchors": [
        {"head": "desk"}, {"head": "window", "rank": {"by": "left", "place": 2}}]}]}

A tree may be written by hand. The fields follow what EaSe (Mi et al. 2025) and CSVG (Yuan et al.
2024) let a language model write: a category with attributes, relations to other things, negation,
superlatives and counts.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from data.errors import DataError
from data.queries.prompts import ATOM_TASK
from data.types import Prompt

RelationName = Literal[
    "on",
    "under",
    "above",
    "below",
    "inside",
    "near",
    "far",
    "closest",
    "farthest",
    "between",
    "corner",
    "against",
    "left",
    "right",
    "front",
    "behind",
]
"""``near`` and ``far`` judge each thing by itself, ``closest`` and ``farthest`` choose among all.
``corner`` (of the room) needs no anchor and ``between`` two; all others have one."""
RankName = Literal[
    "largest",
    "smallest",
    "tallest",
    "lowest",
    "left",
    "right",
    "front",
    "back",
]
NUM_ANCHORS: dict[str, int] = {"corner": 0, "between": 2}
VIEWED = frozenset({"left", "right", "front", "behind", "back"})
"""Relations and ranks that depend on where one stands."""
_Words = Annotated[str, Field(min_length=1, max_length=400)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Rank(_Part):
    """A choice by order: the ``place``-th (from 1) ``by`` a size or a side."""

    by: RankName
    place: Annotated[int, Field(ge=1, le=20)] = 1


class Relation(_Part):
    """A relation of a thing to its anchors; ``negative`` where it must not hold."""

    name: RelationName
    anchors: tuple[Phrase, ...] = ()
    negative: bool = False

    @model_validator(mode="after")
    def _has_its_anchors(self) -> Relation:
        # "between the windows" has one anchor that is several things.
        allowed = (1, 2) if self.name == "between" else (NUM_ANCHORS.get(self.name, 1),)
        if len(self.anchors) not in allowed:
            raise ValueError(f"{self.name} takes {allowed[-1]} anchors, not {len(self.anchors)}")
        return self


class Phrase(_Part):
    """A thing, or several, by name and attributes, relations and rank.

    ``head`` are the words that teacher and student are asked by themselves, without article:
    "black chair". ``count`` is the number of things that are meant, 0 for all that fit; ``facing``
    is what the viewer faces, None where nothing is said of the viewer.
    """

    head: _Words
    relations: tuple[Relation, ...] = ()
    rank: Rank | None = None
    count: Annotated[int, Field(ge=0, le=50)] = 1
    facing: Phrase | None = None

    @property
    def relates(self) -> bool:
        """Whether anything but the head decides what is meant."""
        return bool(self.relations) or self.rank is not None

    def phrases(self) -> Iterator[Phrase]:
        """Yield this phrase and all phrases inside it, each before its own."""
        yield self
        for relation in self.relations:
            for anchor in relation.anchors:
                yield from anchor.phrases()
        if self.facing is not None:
            yield from self.facing.phrases()

    def heads(self) -> tuple[str, ...]:
        """Return the different heads, in order of ``phrases``."""
        return tuple(dict.fromkeys(phrase.head for phrase in self.phrases()))


_TREE: TypeAdapter[Phrase] = TypeAdapter(Phrase)


def tree_to_json(tree: Phrase) -> dict[str, Any]:
    """Convert a tree to plain JSON without what has its default."""
    content: dict[str, Any] = _TREE.dump_python(tree, mode="json", exclude_defaults=True)
    return content


def tree_from_json(content: Any, source: str) -> Phrase:
    """Convert plain JSON to a tree; DataError naming ``source`` for any other content."""
    try:
        return _TREE.validate_python(_tupled(content))
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "the tree"
        names = ", ".join(get_args(RelationName))
        raise DataError(
            source,
            f"a tree of a sentence: head, relations ({names}), rank, count, facing",
            f"{place}: {first['msg']}",
            "See docs/relations.md for the form.",
        ) from error


def _tupled(content: Any) -> Any:
    """Make tuples of lists, as the strict types want."""
    if isinstance(content, list):
        return tuple(_tupled(value) for value in content)
    if isinstance(content, dict):
        return {key: _tupled(value) for key, value in content.items()}
    return content


def as_asked(head: str) -> str:
    """Return a phrase as teacher and student are asked it."""
    return f"the {head}"


def atom_prompts(trees: Iterable[Phrase], scene_id: str, asked: Collection[str]) -> list[Prompt]:
    """Make one prompt per phrase of the trees that is not ``asked`` already, in their order."""
    texts = dict.fromkeys(as_asked(head) for tree in trees for head in tree.heads())
    new = [text for text in texts if text not in asked]
    return [
        Prompt(f"{scene_id}_{ATOM_TASK}_{number:03d}", scene_id, text, ATOM_TASK)
        for number, text in enumerate(new)
    ]


def in_words(tree: Phrase) -> str:
    """Return a tree as a short line, for pages and the command line."""
    rank = "" if tree.rank is None else f"[{tree.rank.by} {tree.rank.place}] "
    parts = [f"{rank}{tree.head}" + ("" if tree.count == 1 else f" x{tree.count or 'all'}")]
    for relation in tree.relations:
        anchors = ", ".join(in_words(anchor) for anchor in relation.anchors)
        parts.append(f"{'not ' * relation.negative}{relation.name}({anchors})")
    if tree.facing is not None:
        parts.append(f"facing({in_words(tree.facing)})")
    return " ".join(parts)
