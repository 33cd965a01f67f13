"""What is true of a search in one of its rooms; for oracles and evaluation only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from data.searches import Search
from data.types import PromptTruth


def truths_in_room(
    searches: Sequence[Search], truths: Mapping[str, PromptTruth], scene_id: str
) -> dict[str, PromptTruth]:
    """Truths of what is wanted in a room, by prompt id, for those searches that mean this room.

    Of the same words in the other rooms nothing is known. ``truths`` is by search id, among
    others.
    """
    found = {}
    for search in searches:
        truth = truths.get(search.search_id)
        if truth is not None and truth.scene_id == scene_id:
            prompt_id = search.prompt_id(scene_id)
            found[prompt_id] = replace(truth, prompt_id=prompt_id)
    return found
