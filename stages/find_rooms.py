"""Stage ``find_rooms``: which room of its place a search means; no label has a say.

A room is the more likely meant, the surer the answers to all signs are that what they name is
there (their mean). Where sentences name no room, and between rooms that are equally likely, it is
the room with the surest answer to what is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from data.artifacts.rooms import RoomChoice
from data.searches import Search, sign_ids

RoomScores = Mapping[str, Mapping[str, float]]
"""How sure each source's answers in one room are, in [0, 1]: by source, then by prompt id."""


def run(searches: Sequence[Search], scores: Mapping[str, RoomScores]) -> list[RoomChoice]:
    """A choice for each search and source, in the order of the searches.

    ``scores`` is by room. Raises KeyError when a room, a source or an answer is not there.
    """
    return [
        _choose(search, source, scores, searches)
        for search in searches
        for source in scores[search.rooms[0]]
    ]


def _choose(
    search: Search, source: str, scores: Mapping[str, RoomScores], searches: Sequence[Search]
) -> RoomChoice:
    likely, wanted = [], []
    for room in search.rooms:
        answers, signs = scores[room][source], sign_ids(searches, room)
        wanted.append(answers[search.prompt_id(room)])
        seen = [answers[signs[text]] for text in search.signs]
        likely.append(float(np.mean(seen)) if seen else wanted[-1])
    order = sorted(range(len(likely)), key=lambda k: (-likely[k], -wanted[k], k))
    room = search.rooms[order[0]] if likely[order[0]] > 0 else ""
    by_room = {name: round(value, 6) for name, value in zip(search.rooms, likely, strict=True)}
    return RoomChoice(search.search_id, source, room, by_room)
