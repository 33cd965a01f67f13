"""Which objects answer a query, checked against the annotation of its scene."""

from __future__ import annotations

from collections.abc import Mapping

from data.errors import DataError
from data.types import GroundTruth, Prompt, PromptTruth


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
