"""The bank: categories that every scene is asked for, whatever its own queries are.

It is a fixed list, so it tells nothing of what a scene holds. In fusion its masks are rivals of
the queries' masks; for the student they are further lessons.
"""

from __future__ import annotations

from collections.abc import Sequence

from data.types import Prompt

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
