"""Parse a sentence that relates things into a tree (``data.queries.relation_trees``), offline.

The sentence is cut at the words for relations, from left to right. A relation belongs to the thing
named just before it ("the book on the table next to the sofa": the table is next to the sofa),
unless "that is", "which is" or "and" leads back to the thing that is looked for. What the words do
not cover is no tree: such a sentence is asked as a whole.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from typing import NamedTuple, cast

import yaml
from pydantic import ValidationError

from data.queries.relation_trees import Phrase, Rank, RankName, Relation, RelationName
from stages.configs import RelationsConfig

VERSION = 1
"""Raise it whenever the rules would read a sentence otherwise."""
_FILE = resources.files("data.queries").joinpath("relation_words.yaml")
TABLES: dict[str, dict[str, list[str]]] = yaml.safe_load(_FILE.read_text(encoding="utf-8"))
_SAID = cast(dict[RelationName, list[str]], TABLES["relations"])
_BEFORE = cast(dict[RankName, list[str]], TABLES["ranks"])
_AFTER = cast(dict[RankName, list[str]], TABLES["ranks_after"])
_ORDINALS = {
    word: place
    for place, words in enumerate(
        ("first|1st", "second|2nd", "third|3rd", "fourth|4th", "fifth|5th", "sixth|6th"), 1
    )
    for word in words.split("|")
}
_SIDES: dict[str, RankName] = {
    "left": "left",
    "right": "right",
    "front": "front",
    "back": "back",
}
_COUNTS = {"both": 2, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "all": 0, "every": 0}
_COUNTS |= {"each": 0, "2": 2, "3": 3, "4": 4, "5": 5, "6": 6}
_ARTICLE = r"(?:the |a |an |that |this |these |those |its |your |my |some |any )?"
_LEADS = re.compile(
    r"^(?:please |kindly |hey |ok |now |can you |could you |would you |will you |i want you to "
    r"|i would like you to |help me |help me to |try to )*"
    r"(?:find me |find |show me |show |mark out |mark |segment out |segment |locate |highlight "
    r"|select |choose |pick out |pick |point out |point at |point to |look for |look at |give me "
    r"|get |identify |i am looking for |i'm looking for |i am searching for |i need |i want "
    r"|where is |where's |where are |which one is |which is |what is |what's |it is |it's "
    r"|there is |this is |you are looking for |we need |which |what )?"
)
_OPENING = re.compile(r"^(?:of all (?:of )?(?:the )?)(?P<head>.+?), (?:the one|that) (?P<rest>.+)$")
_VIEWED = (
    re.compile(
        r"^(?:when|if|as|while|once|with)?(?: you| one| we| i)?(?:'re| are| is| am)? ?"
        r"(?:stand and |standing and |sit and )?(?:facing|face|faces|looking at|look at|looks at"
        r"|looking towards?|look towards?|facing towards?|turned to|turn to) (?P<facing>[^,]+), ?"
        r"(?P<rest>.+)$"
    ),
    re.compile(
        r"^(?P<rest>.+?),? (?:when|if|as|while) (?:you |one |we |i )?(?:are |is |am |'re )?"
        r"(?:facing|face|faces|looking at|look at|looks at|looking towards?|facing towards?"
        r"|turned to|seen facing) (?P<facing>.+)$"
    ),
)
_LINKS = (
    r"(?:,? ?(?:that|which|who)(?:'s| is| are|'re)? ?|,? ?(?:it|they) (?:is|are) )?"
    r"(?:located |placed |put |positioned |standing |stands |stand |sitting |sits |lying |lies "
    r"|hanging |hangs |hung |mounted |resting |rests |situated |leaning |leans |pushed |set |kept "
    r"|has been put |have been put |seen |found |directly |right |just |immediately )*"
)


class _Cut(NamedTuple):
    """A word for a relation in a text: where it begins and ends."""

    name: RelationName
    negative: bool
    begin: int
    end: int
    linked: bool


def parse(text: str) -> Phrase | None:
    """Return the tree of a sentence; None where it relates nothing, or says what is not covered."""
    said = _plain(text)
    facing = None
    for pattern in _VIEWED:
        found = pattern.match(said)
        if found:
            said, facing = found["rest"], _thing(found["facing"])
            if facing is None:
                return None
            break
    if facing is not None:  # "facing the desk, the chair to the left of it"
        said = re.sub(r"\b(?:it|them)$", f"the {facing.head}", said)
    asked = _LEADS.sub("", said, count=1)
    if said.startswith(("where", "what")) and not re.match(r"(?:the|both|all|my|our) ", asked):
        return None  # "where are clothes kept behind doors?" asks for no clothes.
    said = asked
    opened = _OPENING.match(said)
    if opened:  # "of all the chairs, the one closest to the desk"
        said = f"{singular(opened['head'])} {opened['rest']}"
    try:
        tree = _parsed(said)
    except ValidationError:
        return None
    if tree is None or not tree.relates:
        return None
    return tree if facing is None else tree.model_copy(update={"facing": facing})


def _plain(text: str) -> str:
    said = re.sub(r"\s+", " ", text.lower().replace("’", "'")).strip().strip("?.!\"' ")
    return re.sub(r",? please$", "", said)


@cache
def _relation_words() -> re.Pattern[str]:
    pairs = [(word, name) for name, words in _SAID.items() for word in words]
    flat = sorted(pairs, key=lambda pair: -len(pair[0]))  # "on the left of" before "on".
    said = "|".join(
        f"(?P<{name}_{number}>{re.escape(word)})" for number, (word, name) in enumerate(flat)
    )
    return re.compile(
        rf"(?<![a-z'-])(?P<link>{_LINKS})(?P<negative>(?:is |are )?(?:not|isn't|aren't|n't|never) "
        rf"(?:{_LINKS}))?(?P<said>{said})(?![a-z])"
    )


def _cuts(said: str) -> list[_Cut]:
    """Find the words for relations, from left to right."""
    cuts = []
    for found in _relation_words().finditer(said):
        name = next(key for key, value in found.groupdict().items() if value and "_" in key)
        linked = bool(re.match(r",? ?(?:that|which|who|it|they)\b", found["link"]))
        negative = found["negative"] is not None
        cuts.append(_Cut(_name(name), negative, found.start(), found.end(), linked))
    return cuts


def _name(group: str) -> RelationName:
    return next(name for name in _SAID if group.rsplit("_", 1)[0] == name)


def _parsed(said: str) -> Phrase | None:
    """Parse a sentence without its lead: what is looked for, then relations and their anchors."""
    ranked = _with_tail(said)
    if ranked is not None:
        return ranked
    cuts = _cuts(said)
    if not cuts:
        return _thing(said)
    head = _thing(said[: cuts[0].begin])
    if head is None:
        return None
    ends = [cut.begin for cut in cuts[1:]] + [len(said)]
    pieces = [said[cut.end : end] for cut, end in zip(cuts, ends, strict=True)]
    return _attached(head, cuts, pieces)


def _with_tail(said: str) -> Phrase | None:
    """Parse "chair that reaches highest": a rank at the end."""
    for by, words in _AFTER.items():
        found = re.match(
            rf"^(?P<head>.+?),? (?:the one )?(?:that |which |who )?(?:{'|'.join(words)})$", said
        )
        if found:
            thing = _thing(found["head"])
            return None if thing is None else thing.model_copy(update={"rank": Rank(by=by)})
    return None


def _attached(head: Phrase, cuts: list[_Cut], pieces: list[str]) -> Phrase | None:
    """Attach relations to the thing before them, or to the head where the words lead back to it.

    A thing's number is its place in ``things``; anchors come after what they anchor.
    """
    things: list[Phrase] = [head]
    relations: list[tuple[int, _Cut, list[int]]] = []
    last, back = 0, False
    for cut, piece in zip(cuts, pieces, strict=True):
        back_now = back or (cut.linked and len(relations) > 0)
        parent = 0 if back_now else last
        words = piece.strip(" ,")
        back = bool(re.search(r"(?:^| )(?:and|but)$", words))
        words = re.sub(r"(?:^| )(?:and|but)(?: also| it is| is| which is| that is)?$", "", words)
        anchors = _anchors(cut.name, words.strip(" ,"))
        if anchors is None:
            return None
        places = list(range(len(things), len(things) + len(anchors)))
        things += anchors
        relations.append((parent, cut, places))
        last = places[-1] if places else parent
    built: dict[int, Phrase] = {}
    for place in reversed(range(len(things))):
        own = tuple(
            Relation(name=cut.name, anchors=tuple(built[p] for p in places), negative=cut.negative)
            for parent, cut, places in relations
            if parent == place
        )
        built[place] = things[place].model_copy(update={"relations": own})
    return built[0]


_PLACES = frozenset("room scan scene house home flat apartment image photo space here".split())


def _anchors(name: RelationName, words: str) -> list[Phrase] | None:
    """Return the things that a relation names; None for words that name none."""
    if name == "corner":
        return [] if words in ("", "of the room", "room") else None
    if name == "inside" and words.split(" ")[-1] in _PLACES:
        return None  # "the chair in this room" is any chair.
    if name == "between":
        sides = re.split(r" and (?=the |a |an |another )| and ", words, maxsplit=1)
        things = [_thing(side) for side in sides if side]
    else:
        things = [_thing(words)]
    if not things or any(thing is None for thing in things):
        return None
    return [thing for thing in things if thing is not None]


_ORDINAL = re.compile(
    rf"^(?P<place>{'|'.join(_ORDINALS)}) (?P<head>.+?)(?: (?:from|on|to|counting from|starting"
    rf" from) (?:the )?(?P<side>{'|'.join(_SIDES)})(?: side)?)$"
)
_RANKED = re.compile(
    rf"^(?:(?P<place>{'|'.join(_ORDINALS)})[ -])?"
    rf"(?P<word>{'|'.join(word for words in _BEFORE.values() for word in words)}) (?P<head>.+)$"
)
_COUNTED = re.compile(rf"^(?P<count>{'|'.join(_COUNTS)})(?: of)?(?: the)? (?P<head>.+)$")
_LONGEST_HEAD = 5
_WORDS = re.compile(r"[a-z0-9][a-z0-9' -]*")
_NO_THING = frozenset(
    "one ones thing things object objects item items everything anything it them that this there "
    "something room".split()
)
_NO_NAME = frozenset(
    "i we you they he she my your me us can could should would do does did will to what where "
    "which who how why when made put use used for from a an the keeps keep is are was it this "
    "something anything someone".split()
)


def _thing(words: str) -> Phrase | None:
    """Parse a thing without relations: "the second chair from the left", "two largest windows"."""
    said = re.sub(rf"^{_ARTICLE}", "", words.strip(" ,")).strip()
    rank: Rank | None = None
    ordinal = _ORDINAL.match(said)
    if ordinal:
        place = _ORDINALS[ordinal["place"]]
        said, rank = ordinal["head"], Rank(by=_SIDES[ordinal["side"]], place=place)
    counted = _COUNTED.match(said)
    count = 1
    if counted:
        said, count = counted["head"], _COUNTS[counted["count"]]
    ranked = _RANKED.match(said) if rank is None else None
    if ranked:
        by = next(b for b, words in _BEFORE.items() if ranked["word"] in words)
        said, rank = ranked["head"], Rank(by=by, place=_ORDINALS.get(ranked["place"] or "", 1))
    said = re.sub(rf"^{_ARTICLE}", "", said).strip(" ,")
    said = re.sub(r" (?:that|which|who)(?: is| are)?$|(?: is| are)$", "", said).strip(" ,")
    parts = said.split()
    if not _WORDS.fullmatch(said) or parts[-1] in _NO_THING or len(parts) > _LONGEST_HEAD:
        return None
    if _NO_NAME.intersection(parts):
        return None
    if count != 1:
        said = singular(said)
    elif said != singular(said):
        count = 0  # "the chairs at the table": all of them
        said = singular(said)
    return Phrase(head=said, rank=rank, count=count)


_ALIKE = frozenset("glasses scissors stairs blinds clothes dishes shorts curtains".split())


def singular(name: str) -> str:
    """Return the singular of an English noun phrase.

    >>> singular("bookshelves"), singular("boxes"), singular("glass"), singular("black chairs")
    ('bookshelf', 'box', 'glass', 'black chair')
    """
    *before, last = name.split(" ")
    if last in _ALIKE or len(last) < 4:
        return name
    if last.endswith("elves") or last.endswith("knives"):
        stem = f"{last[:-3]}f" if last.endswith("elves") else f"{last[:-3]}fe"
    elif last.endswith("ies"):
        stem = f"{last[:-3]}y"
    elif re.search(r"(?:x|ch|sh|ss|z)es$", last):
        stem = last[:-2]
    elif last.endswith("s") and not re.search(r"(?:ss|us|is)$", last):
        stem = last[:-1]
    else:
        return name
    return " ".join([*before, stem])


def parse_all(texts: Iterable[str], cfg: RelationsConfig) -> list[Phrase | None]:
    """Parse sentences, each by itself; none where relations are switched off."""
    return [None if cfg.mode == "off" else parse(text) for text in texts]
