"""Stage ``prepare_prompts`` where nothing but sentences is given: each is asked of every scene."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from data.types import Prompt

TASK = "sentence"


def run(
    sentences: Mapping[str, Sequence[str]], splits: Mapping[str, Sequence[str]]
) -> dict[str, list[Prompt]]:
    """Prompts by split. A scene may be in several; what it is asked in one, it is in all.

    Args:
        sentences: by split.
        splits: scene ids by split.
    """
    asked: dict[str, list[str]] = {}
    for split, scene_ids in splits.items():
        for scene_id in scene_ids:
            known = asked.setdefault(scene_id, [])
            known += [text for text in sentences[split] if text not in known]
    prompts = {
        scene_id: [
            Prompt(f"{scene_id}_{number:04d}", scene_id, text, TASK)
            for number, text in enumerate(texts)
        ]
        for scene_id, texts in asked.items()
    }
    return {
        split: [prompt for scene_id in scene_ids for prompt in prompts[scene_id]]
        for split, scene_ids in splits.items()
    }
