"""Hierarchical search: a query over several rooms, of which the sentence tells the one it means.

A *place* is a group of scenes that are its rooms (in Matterport3D the regions of a house). A
search is asked in each of them: what is wanted, and what tells the room. Which room is meant is
label-free work; which one is right stands in the search's truth alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from data.types import Prompt

SEARCH_TASK = "search"
SIGN_TASK = "sign"
EXTRA_TASKS = (SEARCH_TASK, SIGN_TASK)


@dataclass(frozen=True)
class Search:
    """One sentence about one place.

    ``number`` counts the place's searches; ``wanted`` is asked in each of ``rooms`` (scene ids),
    and so is each of ``signs``, which tell the room; none where the sentence names no room.
    """

    search_id: str
    place: str
    number: int
    rooms: tuple[str, ...]
    text: str
    room_words: str
    wanted: str
    signs: tuple[str, ...]

    def prompt_id(self, scene_id: str) -> str:
        """Id of what is wanted, as asked in one room."""
        return f"{scene_id}_{SEARCH_TASK}_{self.number:04d}"


def search_prompts(searches: Sequence[Search], scene_id: str) -> list[Prompt]:
    """What a room is asked because of the searches of its place; none for a scene of no place."""
    mine = [search for search in searches if scene_id in search.rooms]
    wanted = [Prompt(s.prompt_id(scene_id), scene_id, s.wanted, SEARCH_TASK) for s in mine]
    signs = sign_ids(searches, scene_id)
    return wanted + [Prompt(name, scene_id, text, SIGN_TASK) for text, name in signs.items()]


def sign_ids(searches: Sequence[Search], scene_id: str) -> dict[str, str]:
    """Prompt ids of the signs that a room is asked for, by their words, each once."""
    mine = [search for search in searches if scene_id in search.rooms]
    texts = dict.fromkeys(text for search in mine for text in search.signs)
    return {text: f"{scene_id}_{SIGN_TASK}_{k:03d}" for k, text in enumerate(texts)}


def is_of_search(prompt_id: str, scene_id: str) -> bool:
    """Whether one of a scene's prompts is asked for a search, not as a query of its own."""
    return any(prompt_id.startswith(f"{scene_id}_{task}_") for task in EXTRA_TASKS)
