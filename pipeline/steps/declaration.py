"""How a step of the pipeline is declared: once, with everything the pipeline must know of it.

A step makes one artifact of a scene, or of a whole scene set, from the artifacts of other steps.
From its declaration follow its fingerprint, its Luigi task and what that requires, what it may
read, what is imported ahead for it, and its rows in ``plan``, ``status``, ``doctor`` and the
report. ``declare`` checks a declaration and registers it; importing a module of declarations is
all it takes to add steps.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import BaseModel

from data.errors import ConfigError
from stages.teacher.identity import import_from_here

if TYPE_CHECKING:
    from data.artifacts.store import ArtifactKey
    from data.types import Split
    from pipeline.plan import Plan

Scenes = Literal["same", "train", "val", "all", "set"]
"""Which artifacts of a step are an input: that of the same scene, those of all scenes of a split
or of the set, or the one artifact of a step that works on the whole set."""
LabelUse = Literal["never", "oracle", "fine-tuning", "evaluation"]


def _always(plan: Plan) -> bool:
    return True


def _never(plan: Plan) -> bool:
    return False


def load(name: str) -> Any:
    """The object that ``module:attribute`` names; the module is imported."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Part:
    """Something that can be read from an artifact, such as a scene without its labels.

    ``reader`` names a function as ``module:function``; it takes the artifact's place, and with
    ``takes_root`` also the data set's folder. ``has_labels`` says that it returns ground truth.
    """

    reader: str
    has_labels: bool = False
    takes_root: bool = False


class Origin(NamedTuple):
    """Where an input comes from: a step of a plan, or, with ``plan`` None, a finished folder."""

    plan: Plan | None
    step: str
    key: ArtifactKey


@dataclass(frozen=True)
class Input:
    """Artifacts of another step that a step reads.

    The input enters the fingerprint of the step under ``name``, with the scene's id behind it
    where there is one for each of many scenes. Where another input or source already identifies
    its content, ``known_by`` names that one, and the input is required and read but enters the
    fingerprint no second time. ``identity`` replaces the artifact's fingerprint by that of the
    piece of it that matters. ``when`` says under which plans the input is needed. ``origin``
    finds the artifact where it may come from another scene set. ``told`` says in words what an
    ``identity`` depends on, for ``plan`` to explain a change.
    """

    name: str
    step: str
    parts: tuple[str, ...] = ()
    scenes: Scenes = "same"
    known_by: str = ""
    when: Callable[[Plan], bool] = _always
    identity: Callable[[Plan, str], str] | None = None
    origin: Callable[[Plan], Origin] | None = None
    told: str = ""


@dataclass(frozen=True)
class Source:
    """Content from outside that a step reads: scans, query files, weights.

    ``identities`` gives fingerprints by name for a scene (None for the whole set); ``told`` says
    in words what each name is, for ``plan`` to explain a change.
    """

    identities: Callable[[Plan, str | None], Mapping[str, str]]
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preload:
    """What to import in the process that forks a step's tasks, so that each task need not.

    ``loops`` are modules with compiled loops, whose ``warm`` loads them; ``calls`` are functions
    (``module:function``) that load a library; ``cuda_free_calls`` are those that would touch CUDA
    where there is any, after which a process cannot be forked.
    """

    modules: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    cuda_free_calls: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """One step; its artifacts lie at ``<output>/<scene set>/<name>/[<scene>/]<fingerprint>``.

    Attributes:
        name: folder of its artifacts.
        version: raised whenever the same inputs would give another content, and only then.
        summary: what the step makes, in one sentence.
        make: ``module:function``, called with a ``Given`` and the place to write to; "" for an
            artifact that a task of its own makes.
        section: the section of the config that is the step's, "" for none.
        settings: the pydantic model of that section, of a step from outside this package.
        config: what of the config enters the fingerprint, where that is not the whole section.
        also: other sections that the step reads, which an input or a source already identifies.
        inputs: what it reads of other steps.
        sources: what it reads from outside.
        parts: what others can read of its artifact, by name.
        scenes: "" for a step of the whole set; else the scenes that its task stands for when none
            is named.
        labels: the use for which the step may read ground truth; "never" is the rule.
        oracle: when a step that is label-free otherwise reads truth, because its config says so.
        needs_truth: refuses scene sets without ground truth.
        exists: whether a plan has the step at all.
        check: refuses a plan under which the step cannot run, with UserError.
        resumable: goes on from what an earlier attempt left in its folder.
        in_object_store: its artifacts may lie in an object store (``$MLLM3D_CACHE``).
        uses_gpu, asks_teacher, trains: what it computes with: one GPU; the teacher's network;
            as many processes and GPUs as a training is given.
        priority: Luigi's; what a step of higher priority needs goes first.
        preload: what is imported ahead.
        progress: ``module:function`` from an unfinished artifact's folder to how many of how many
            views are done, or None; "" where nothing tells.
        within: the step in whose artifact this step's lie, as ``data/<scene>``.
        task: name of its Luigi task; the step's name in capitals when left out.
        former: folders that its artifacts had under earlier names; ``gc`` frees these.
        in_report: whether the report says what it cost.
    """

    name: str
    version: int
    summary: str
    make: str = ""
    section: str = ""
    settings: type[BaseModel] | None = None
    config: Callable[[Plan], BaseModel | Mapping[str, Any]] | None = None
    also: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    sources: tuple[Source, ...] = ()
    parts: Mapping[str, Part] = field(default_factory=dict)
    scenes: Literal["", "all", "val"] = ""
    labels: LabelUse = "never"
    oracle: Callable[[Plan], bool] = _never
    needs_truth: bool = False
    exists: Callable[[Plan], bool] = _always
    check: Callable[[Plan], None] | None = None
    resumable: bool = False
    in_object_store: bool = False
    uses_gpu: bool = False
    asks_teacher: bool = False
    trains: bool = False
    priority: int = 0
    preload: Preload = Preload()
    progress: str = ""
    within: str = ""
    task: str = ""
    former: tuple[str, ...] = ()
    in_report: bool = True

    def __reduce__(self) -> tuple[Any, ...]:
        """Another process finds the same declaration again, by importing where it stands."""
        return _declared, (self.name, self.make.partition(":")[0])

    @property
    def is_per_scene(self) -> bool:
        """Whether the step makes one artifact for each scene."""
        return bool(self.scenes)

    @property
    def splits(self) -> tuple[Split, ...]:
        """The splits whose scenes a task stands for when none is named; () for all."""
        return ("val",) if self.scenes == "val" else ()

    @property
    def task_name(self) -> str:
        """Name of the Luigi task."""
        return self.task or self.name.title().replace("_", "")

    @property
    def stage_folder(self) -> str:
        """The folder below a scene set's output that its artifacts lie in."""
        return self.within or self.name

    def active_inputs(self, plan: Plan) -> tuple[Input, ...]:
        """The inputs that are needed under a plan."""
        return tuple(one for one in self.inputs if one.when(plan) and exists(one, plan))

    def input(self, name: str, plan: Plan) -> Input:
        """The declared input of that name; LookupError for one that is not declared or needed."""
        for one in self.active_inputs(plan):
            if one.name == name:
                return one
        raise LookupError(
            f"step {self.name} reads an input {name!r} that its declaration does not name "
            f"(declared: {', '.join(one.name for one in self.inputs) or 'none'})"
        )

    def told(self) -> dict[str, str]:
        """In words what the identities of its sources depend on, by name."""
        found = {name: text for source in self.sources for name, text in source.told.items()}
        return found | {one.name: one.told for one in self.inputs if one.told}

    def reads_labels(self, plan: Plan) -> bool:
        """Whether anything that the step reads under a plan is ground truth or made from it."""
        return any(
            holds_labels(one, part) for one in self.active_inputs(plan) for part in one.parts
        )


def exists(one: Input, plan: Plan) -> bool:
    """Whether a plan has the step that an input comes from."""
    return STEPS[one.step].exists(plan)


def holds_labels(one: Input, part: str) -> bool:
    """Whether a part of an input is ground truth, or its step reads ground truth always.

    What an evaluation or an oracle makes from labels is itself label data for others.
    """
    step = STEPS[one.step]
    return step.parts[part].has_labels or step.labels != "never"


def _declared(name: str, module: str) -> Step:
    if name not in STEPS:
        importlib.import_module(module)
    return STEPS[name]


STEPS: dict[str, Step] = {}
"""All declared steps by name, in the order in which a run makes them."""
ON_DECLARED: list[Callable[[Step], object]] = []
"""Called with every step that is declared from now on, such as what makes its Luigi task."""


def declare(step: Step) -> Step:
    """Check a declaration and register it.

    Raises ConfigError for a name that is taken by another step, an input from a step that is not
    declared yet, a part that step does not have, a ``known_by`` that names nothing, and a
    label-free step that would read labels.
    """
    for problem in problems(step, STEPS):
        raise ConfigError(f"step {step.name}: {problem}")
    STEPS[step.name] = step
    for tell in ON_DECLARED:
        tell(step)
    return step


def problems(step: Step, known: Mapping[str, Step]) -> Iterator[str]:
    """What is wrong with a declaration beside those of ``known``, one sentence each."""
    if step.name in known and known[step.name] is not step:
        yield "another step of this name is declared already"
    if not step.name.isidentifier() or step.version < 1:
        yield "expected an identifier as its name, and a version from 1 on"
    names = {one.name for one in step.inputs}
    told = {name for source in step.sources for name in source.told}
    for one in step.inputs:
        if one.step not in known:
            yield f"input {one.name} comes from step {one.step}, which is not declared before it"
            continue
        maker = known[one.step]
        for part in one.parts:
            if part not in maker.parts:
                has = ", ".join(maker.parts) or "none"
                yield f"input {one.name} reads part {part!r}; {maker.name} has {has}"
            elif maker.parts[part].has_labels or maker.labels != "never":
                if step.labels == "never" and (one.when is _always or step.oracle is _never):
                    yield (
                        f"it is label-free, and its input {one.name} reads {part!r} of "
                        f"{maker.name}, which holds labels"
                    )
        if one.known_by and one.known_by not in names | told | {"config"}:
            yield f"input {one.name} is known by {one.known_by!r}, which it does not declare"
        if (one.scenes == "set") != (not maker.is_per_scene):
            yield f"input {one.name}: {maker.name} does not work on {one.scenes!r}"


def steps_from(modules: Collection[str]) -> list[Step]:
    """The steps that modules from outside this package declare at their top level.

    Raises ConfigError for a module that cannot be imported or that declares none.
    """
    found: list[Step] = []
    for name in modules:
        import_from_here()
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"steps: the module {name!r} cannot be imported ({error}). Install it, or run in "
                "the folder it lies in."
            ) from error
        declared = [value for value in vars(module).values() if isinstance(value, Step)]
        if not declared:
            raise ConfigError(f"steps: the module {name!r} declares no step (pipeline.steps.Step)")
        found += declared
    return list(dict.fromkeys(found))


def section_model(step: Step) -> type[BaseModel] | None:
    """The model of a step's section of the config; None for a step that has none."""
    if step.settings is not None or not step.section:
        return step.settings
    from stages.configs import Experiment

    kind = Experiment.model_fields[step.section].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def step_of(stage: str, scene: str | None = None) -> Step | None:
    """The step whose artifacts lie in a stage folder; None for a folder of no step of today."""
    if scene is not None:
        inner = next((one for one in STEPS.values() if one.within == stage), None)
        if inner is not None:
            return inner
    return STEPS.get(stage)


def stage_folders() -> Collection[str]:
    """Names of all folders that steps put their artifacts into."""
    folders = (folder for step in STEPS.values() for folder in (step.stage_folder, *step.former))
    return dict.fromkeys(folders)
