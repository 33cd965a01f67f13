"""The step that parses queries, and the prompts of each scene that its and their artifacts give.

They are label-free; only ``Questions.truths`` returns ground truth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.scene_sets import Dataset, digest
from pipeline.steps.declaration import STEPS, Input, Part, Source, Step, declare

if TYPE_CHECKING:
    from data.queries.hierarchical_search import Search
    from data.queries.relation_trees import Phrase
    from data.types import Prompt, PromptTruth, Split
    from pipeline.plan import Plan
    from pipeline.steps.step_inputs import StepInputs
    from stages.relations.by_labels import Related


@dataclass(frozen=True)
class Questions:
    """The queries of a scene set.

    Attributes:
        prompts, searches: queries about one scene and about places of several rooms, by split.
        bank: categories that every scene is asked about as distractors.
        trees: of the queries that relate things, by prompt id; their phrases are asked, too.
    """

    dataset: Dataset
    prompts: Mapping[str, Sequence[Prompt]]
    searches: Mapping[str, Sequence[Search]]
    bank: Sequence[str]
    trees: Mapping[str, Phrase] = field(default_factory=dict)

    def of(self, scene_id: str) -> list[Prompt]:
        """A scene's own queries."""
        prompts = self.prompts[self.dataset.split_of(scene_id)]
        return [prompt for prompt in prompts if prompt.scene_id == scene_id]

    def bank_of(self, scene_id: str) -> list[tuple[Prompt, str]]:
        """Prompts of a scene for the bank, each with its category."""
        from data.queries.prompts import bank_prompts

        return list(zip(bank_prompts(list(self.bank), scene_id), self.bank, strict=True))

    def asked(self, scene_id: str) -> list[Prompt]:
        """All prompts for the teacher on a scene.

        Its queries come first, then the bank, searches, and phrases of trees that none of these
        asks.
        """
        return self._with_more(scene_id, self.of(scene_id))

    def _with_more(self, scene_id: str, queries: list[Prompt]) -> list[Prompt]:
        from data.queries.hierarchical_search import search_prompts
        from data.queries.relation_trees import atom_prompts

        searches = search_prompts(self.searches_in(self.dataset.split_of(scene_id)), scene_id)
        asked = queries + [prompt for prompt, _ in self.bank_of(scene_id)] + searches
        # A query with a tree is answered by its phrases, so it is none of them.
        texts = {prompt.text for prompt in asked if prompt.prompt_id not in self.trees}
        trees = [self.trees[p.prompt_id] for p in queries if p.prompt_id in self.trees]
        return asked + atom_prompts(trees, scene_id, texts)

    def related(self, scene_id: str, prompt_ids: Sequence[str]) -> Related:
        """The trees of a scene's queries among ``prompt_ids``, and where their phrases are."""
        from stages.relations.by_labels import Related

        return Related.of(prompt_ids, self.asked(scene_id), self.trees)

    def searches_in(self, split: Split) -> list[Search]:
        """Searches in the places of a split."""
        return list(self.searches.get(split, ())) if self.dataset.places else []

    def counts(self) -> dict[str, int]:
        """Number of prompts for each scene of the set."""
        own: dict[str, list[Prompt]] = {scene: [] for scene in self.dataset.scenes()}
        for prompts in self.prompts.values():
            for prompt in prompts:
                own[prompt.scene_id].append(prompt)
        return {scene: len(self._with_more(scene, queries)) for scene, queries in own.items()}

    def truths(
        self, all_truths: Mapping[str, PromptTruth], scene_id: str
    ) -> dict[str, PromptTruth]:
        """Ground truth of a scene's prompts by prompt id, from the truths of all queries.

        Only oracles and evaluations may call it.
        """
        from data.queries.hierarchical_search import truths_in_room

        searches = self.searches_in(self.dataset.split_of(scene_id))
        return {**all_truths, **truths_in_room(searches, dict(all_truths), scene_id)}


def relates(plan: Plan) -> bool:
    """Whether sentences that relate things are parsed, and their phrases asked.

    The oracle knows what each sentence means, so it is asked no phrases.
    """
    cfg = plan.experiment
    return cfg.relations.mode != "off" and cfg.teacher.name != "oracle"


def question_inputs(
    known_by: str = "", *parts: str, when: Callable[[Plan], bool] | None = None
) -> tuple[Input, ...]:
    """The inputs that ``read_questions`` reads, with further ``parts`` of the prepared queries."""

    def asks(plan: Plan) -> bool:
        return when is None or when(plan)

    def with_trees(plan: Plan) -> bool:
        return asks(plan) and relates(plan)

    prompts = ("prompts", "searches", *parts)
    return (
        Input("prompts", "prepare_prompts", prompts, "set", known_by, asks),
        Input("trees", "parse_queries", ("trees",), "set", known_by, with_trees),
    )


def read_questions(inputs: StepInputs) -> Questions:
    """The queries in a step's ``question_inputs``; it must declare the section ``prompts``."""
    prompts, searches = inputs.read("prompts", "prompts"), inputs.read("prompts", "searches")
    trees = inputs.read("trees") if inputs.has("trees") else {}
    return Questions(inputs.dataset, prompts, searches, inputs.section("prompts").bank, trees)


def question_steps(plan: Plan) -> list[Step]:
    """The steps that ``questions_of`` reads, for tasks that require them."""
    return [STEPS["prepare_prompts"], *([PARSE_QUERIES] if relates(plan) else [])]


def questions_of(plan: Plan) -> Questions:
    """The queries of a plan, for commands; ArtifactError where they are not prepared.

    Without the artifact of ``ParseQueries`` they have no trees.
    """
    from data.artifacts.prompts import read_prompts, read_searches, read_trees
    from data.artifacts.store import is_complete

    folder, parsed = plan.key("prepare_prompts").folder, plan.key("parse_queries")
    trees = read_trees(parsed.folder) if relates(plan) and is_complete(parsed) else {}
    bank = plan.experiment.prompts.bank
    return Questions(plan.dataset, read_prompts(folder), read_searches(folder), bank, trees)


def make_trees(inputs: StepInputs, folder: Path) -> None:
    """Write the trees of all queries of the set that relate things."""
    from data.artifacts.prompts import write_trees
    from stages.relations.parse import parse_all

    by_split = inputs.read("prompts", "prompts")
    prompts = [prompt for split in by_split.values() for prompt in split]
    trees = parse_all([prompt.text for prompt in prompts], inputs.config)
    pairs = zip(prompts, trees, strict=True)
    write_trees(folder, {prompt.prompt_id: tree for prompt, tree in pairs if tree is not None})


def relations_identity(plan: Plan, scene_id: str | None = None) -> dict[str, str]:
    """What decides, besides the queries, which phrases are asked with them."""
    from stages.relations.parse import TABLES, VERSION

    return {"relations": digest([VERSION, TABLES])} if relates(plan) else {}


RELATIONS = Source(relations_identity, {"relations": "relations.mode, or the parser"})
PARSE_QUERIES = declare(
    Step(
        name="parse_queries",
        version=1,
        summary="The tree of each query that relates things to each other.",
        make="pipeline.steps.questions:make_trees",
        section="relations",
        inputs=(Input("prompts", "prepare_prompts", ("prompts",), "set"),),
        sources=(RELATIONS,),
        parts={"trees": Part("data.artifacts.prompts:read_trees")},
        exists=relates,
    )
)
