"""Prompts of each scene, read from the artifact of prepared queries.

They are label-free; only ``Questions.truths`` returns ground truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.scene_sets import Dataset

if TYPE_CHECKING:
    from data.queries.hierarchical_search import Search
    from data.types import Prompt, PromptTruth, Split
    from pipeline.plan import Plan
    from pipeline.steps.step_inputs import StepInputs


@dataclass(frozen=True)
class Questions:
    """The queries of a scene set.

    Attributes:
        prompts, searches: queries about one scene and about places of several rooms, by split.
        bank: categories that every scene is asked about as distractors.
    """

    dataset: Dataset
    prompts: Mapping[str, Sequence[Prompt]]
    searches: Mapping[str, Sequence[Search]]
    bank: Sequence[str]

    def of(self, scene_id: str) -> list[Prompt]:
        """A scene's own queries."""
        prompts = self.prompts[self.dataset.split_of(scene_id)]
        return [prompt for prompt in prompts if prompt.scene_id == scene_id]

    def bank_of(self, scene_id: str) -> list[tuple[Prompt, str]]:
        """Prompts of a scene for the bank, each with its category."""
        from data.queries.prompts import bank_prompts

        return list(zip(bank_prompts(list(self.bank), scene_id), self.bank, strict=True))

    def asked(self, scene_id: str) -> list[Prompt]:
        """All prompts for the teacher on a scene: its queries, then the bank, then searches."""
        from data.queries.hierarchical_search import search_prompts

        searches = self.searches_in(self.dataset.split_of(scene_id))
        own = self.of(scene_id) + [prompt for prompt, _ in self.bank_of(scene_id)]
        return own + search_prompts(searches, scene_id)

    def searches_in(self, split: Split) -> list[Search]:
        """Searches in the places of a split."""
        return list(self.searches.get(split, ())) if self.dataset.places else []

    def counts(self) -> dict[str, int]:
        """Number of prompts for each scene of the set."""
        from data.queries.hierarchical_search import search_prompts

        counts = dict.fromkeys(self.dataset.scenes(), len(self.bank))
        for prompts in self.prompts.values():
            for prompt in prompts:
                counts[prompt.scene_id] += 1
        for split, places in self.dataset.places.items():
            searches = self.searches_in(split)
            for scene in (room for rooms in places.values() for room in rooms):
                counts[scene] += len(search_prompts(searches, scene))
        return counts

    def truths(
        self, all_truths: Mapping[str, PromptTruth], scene_id: str
    ) -> dict[str, PromptTruth]:
        """Ground truth of a scene's prompts by prompt id, from the truths of all queries.

        Only oracles and evaluations may call it.
        """
        from data.queries.hierarchical_search import truths_in_room

        searches = self.searches_in(self.dataset.split_of(scene_id))
        return {**all_truths, **truths_in_room(searches, dict(all_truths), scene_id)}


def read_questions(inputs: StepInputs) -> Questions:
    """The queries in a step's input "prompts"; the step must declare the section ``prompts``."""
    prompts, searches = inputs.read("prompts", "prompts"), inputs.read("prompts", "searches")
    return Questions(inputs.dataset, prompts, searches, inputs.section("prompts").bank)


def questions_of(plan: Plan) -> Questions:
    """The queries of a plan, for commands; ArtifactError where they are not prepared."""
    from data.artifacts.prompts import read_prompts, read_searches

    folder = plan.key("prepare_prompts").folder
    bank = plan.experiment.prompts.bank
    return Questions(plan.dataset, read_prompts(folder), read_searches(folder), bank)
