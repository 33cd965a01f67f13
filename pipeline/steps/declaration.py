"""Declaration of a step: everything that the pipeline knows about the step, in one place.

A step makes one artifact for each scene, or one for the whole scene set, from the artifacts of
other steps. The pipeline derives from the declaration: the fingerprint, the Luigi task and the
tasks it requires, what the step may read, what is imported before its tasks are forked, and its
rows in ``plan``, ``status``, ``doctor`` and the report. ``declare`` checks and registers a
declaration, so importing a module of declarations adds its steps.
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
"""Artifacts of another step that an input reads: that of the same scene ("same"), those of all
scenes of a split ("train", "val") or of the set ("all"), or the one of the whole set ("set")."""
LabelUse = Literal["never", "oracle", "fine-tuning", "evaluation"]


def _always(plan: Plan) -> bool:
    return True


def _never(plan: Plan) -> bool:
    return False


def load(name: str) -> Any:
    """Import ``module`` and return the object that ``module:attribute`` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


@dataclass(frozen=True)
class Part:
    """A part of an artifact that other steps can read, such as a scene without its labels.

    Attributes:
        reader: function as ``module:function``; it takes the artifact's folder and, with
            ``takes_root``, the data set's folder.
        has_labels: whether the function returns ground truth.
    """

    reader: str
    has_labels: bool = False
    takes_root: bool = False


class Origin(NamedTuple):
    """Origin of an input's artifact: a step of a plan, or a finished folder (``plan`` None)."""

    plan: Plan | None
    step: str
    key: ArtifactKey


@dataclass(frozen=True)
class Input:
    """Artifacts of another step that a step reads.

    Attributes:
        name: name under which ``StepInputs.read`` reads the input, and its name in the fingerprint.
            An input of many scenes has one entry ``<name> <scene>`` there for each scene.
        step: the step that makes the artifacts.
        parts: the parts of the artifact that are read.
        scenes: the scenes whose artifacts are read, see ``Scenes``.
        known_by: name of another input or source that already identifies the content. The input is
            then required and read, but has no entry of its own in the fingerprint.
        when: whether a plan needs the input.
        identity: fingerprint of the piece of the artifact that matters, in place of the artifact's.
        origin: finds the artifact where it may come from another scene set.
        explanation: what ``identity`` depends on, in words that ``plan`` prints after a change.
    """

    name: str
    step: str
    parts: tuple[str, ...] = ()
    scenes: Scenes = "same"
    known_by: str = ""
    when: Callable[[Plan], bool] = _always
    identity: Callable[[Plan, str], str] | None = None
    origin: Callable[[Plan], Origin] | None = None
    explanation: str = ""


@dataclass(frozen=True)
class Source:
    """Content from outside the pipeline that a step reads: scans, query files, weights.

    Attributes:
        identities: fingerprints by name for a scene id, or for None, the whole set.
        explanations: by name, what the fingerprint depends on, in words that ``plan`` prints.
    """

    identities: Callable[[Plan, str | None], Mapping[str, str]]
    explanations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Preload:
    """Imports that the worker makes once, before it forks a step's tasks.

    Attributes:
        modules: modules to import.
        loops: modules with compiled loops, whose ``warm`` loads them.
        calls: functions (``module:function``) that load a library.
        cuda_free_calls: such functions that initialise CUDA where there is a GPU. They are called
            on machines without NVIDIA's driver only: a process that uses CUDA cannot fork.
    """

    modules: tuple[str, ...] = ()
    loops: tuple[str, ...] = ()
    calls: tuple[str, ...] = ()
    cuda_free_calls: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Step:
    """One step; its artifacts lie at ``<output>/<scene set>/<name>/[<scene>/]<fingerprint>``.

    Attributes:
        name: name of the step and of its folder; an identifier in lower case.
        version: from 1 on; raise it whenever the same inputs would give other bytes, only then.
        summary: one sentence that says what the step makes; the help text of its task.
        make: ``module:function`` that makes the artifact. It is called with a ``StepInputs``, which
            reads the inputs, and the folder to write to. "" for an artifact that a Luigi task of
            its own makes.
        section: the step's section of the config, "" for none.
        settings: pydantic model of that section, for a step from outside this package.
        config: the part of the config that enters the fingerprint; the whole section if None.
        also: further sections that the step reads; an input or source must identify their effect.
        inputs: the artifacts of other steps that it reads.
        sources: the content from outside that it reads.
        parts: the parts of its artifact that others can read, by name.
        scenes: "" for one artifact of the whole set; "all" or "val" for one artifact for each scene
            (of that split). A task without ``--scene`` then makes them all.
        labels: the use for which the step may read ground truth; "never" for a label-free step.
        oracle: whether a plan's config makes a label-free step read ground truth.
        needs_truth: whether the step refuses scene sets without ground truth.
        exists: whether a plan has the step at all.
        check: raises UserError for a plan under which the step cannot run.
        resumable: whether ``make`` continues from the files of an interrupted attempt.
        in_object_store: whether its artifacts may lie in an object store (``$MLLM3D_CACHE``).
        uses_gpu: whether it takes one GPU.
        asks_teacher: whether it runs the teacher's network.
        trains: whether it takes as many processes and GPUs as ``--train-processes`` says.
        priority: Luigi's priority; Luigi gives it to the tasks that the step requires, too.
        preload: the imports before its tasks are forked.
        progress: ``module:function`` that takes an unfinished artifact's folder and returns the
            numbers of finished and of all views, or None; "" for none.
        within: the step in whose artifact this step's artifacts lie, as ``data/<scene>``.
        task: name of its Luigi task; by default the name in capitals, ``FuseMasks``.
        former: earlier names of its folder; ``gc`` frees artifacts in these.
        in_report: whether the report lists the step's time and memory.
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
        """Pickle by name: another process imports the module and finds the same declaration."""
        return _declared, (self.name, self.make.partition(":")[0])

    @property
    def is_per_scene(self) -> bool:
        """Whether the step makes one artifact for each scene."""
        return bool(self.scenes)

    @property
    def splits(self) -> tuple[Split, ...]:
        """Splits whose scenes a task without ``--scene`` covers; () for all."""
        return ("val",) if self.scenes == "val" else ()

    @property
    def task_name(self) -> str:
        """Name of the Luigi task."""
        return self.task or self.name.title().replace("_", "")

    @property
    def stage_folder(self) -> str:
        """Name of the folder, in a scene set's output, that holds its artifacts."""
        return self.within or self.name

    def active_inputs(self, plan: Plan) -> tuple[Input, ...]:
        """The inputs that a plan needs."""
        return tuple(each for each in self.inputs if each.when(plan) and exists(each, plan))

    def input(self, name: str, plan: Plan) -> Input:
        """The input of that name; LookupError where the plan does not need or declare it."""
        for each in self.active_inputs(plan):
            if each.name == name:
                return each
        raise LookupError(
            f"step {self.name} reads an input {name!r} that its declaration does not name "
            f"(declared: {', '.join(each.name for each in self.inputs) or 'none'})"
        )

    def explanations(self) -> dict[str, str]:
        """What the fingerprints of sources and inputs depend on, in words, by name."""
        texts = {name: text for each in self.sources for name, text in each.explanations.items()}
        return texts | {each.name: each.explanation for each in self.inputs if each.explanation}

    def reads_labels(self, plan: Plan) -> bool:
        """Whether the step reads ground truth, or something made from it, under a plan."""
        return any(
            holds_labels(each, part) for each in self.active_inputs(plan) for part in each.parts
        )


def exists(step_input: Input, plan: Plan) -> bool:
    """Whether a plan has the step that makes an input."""
    return STEPS[step_input.step].exists(plan)


def holds_labels(step_input: Input, part: str) -> bool:
    """Whether a part of an input is ground truth, or comes from a step that reads ground truth.

    Artifacts of evaluations and oracles count as labels, because they are made from labels.
    """
    step = STEPS[step_input.step]
    return step.parts[part].has_labels or step.labels != "never"


def _declared(name: str, module: str) -> Step:
    if name not in STEPS:
        importlib.import_module(module)
    return STEPS[name]


STEPS: dict[str, Step] = {}
"""All declared steps by name, in the order in which a run makes them."""
ON_DECLARED: list[Callable[[Step], object]] = []
"""Functions called with every newly declared step, such as the one that makes its Luigi task."""


def declare(step: Step) -> Step:
    """Check a declaration and register it.

    Raises ConfigError for a name that another step has, an input from a step that is not yet
    declared, a part that the input's step does not have, a ``known_by`` that names no input or
    source, and a label-free step that would read labels.
    """
    for problem in problems(step, STEPS):
        raise ConfigError(f"step {step.name}: {problem}")
    STEPS[step.name] = step
    for notify in ON_DECLARED:
        notify(step)
    return step


def problems(step: Step, declared: Mapping[str, Step]) -> Iterator[str]:
    """Faults of a declaration, one sentence each; ``declared`` holds the steps before it."""
    if step.name in declared and declared[step.name] is not step:
        yield "another step of this name is declared already"
    if not step.name.isidentifier() or step.version < 1:
        yield "expected a name that is an identifier and a version of 1 or more"
    input_names = {each.name for each in step.inputs}
    source_names = {name for source in step.sources for name in source.explanations}
    for each in step.inputs:
        if each.step not in declared:
            yield f"input {each.name} comes from step {each.step}, which is not declared before it"
            continue
        source_step = declared[each.step]
        for part in each.parts:
            if part not in source_step.parts:
                part_names = ", ".join(source_step.parts) or "none"
                yield f"input {each.name} reads part {part!r}; {source_step.name} has {part_names}"
            elif source_step.parts[part].has_labels or source_step.labels != "never":
                if step.labels == "never" and (each.when is _always or step.oracle is _never):
                    yield (
                        f"it is label-free, and its input {each.name} reads {part!r} of "
                        f"{source_step.name}, which holds labels"
                    )
        if each.known_by and each.known_by not in input_names | source_names | {"config"}:
            yield f"input {each.name} is known by {each.known_by!r}, which it does not declare"
        if (each.scenes == "set") != (not source_step.is_per_scene):
            yield f"input {each.name}: {source_step.name} does not work on {each.scenes!r}"


def steps_from(modules: Collection[str]) -> list[Step]:
    """The steps that modules outside this package declare at their top level.

    Raises ConfigError for a module that cannot be imported or declares no step.
    """
    steps: list[Step] = []
    for name in modules:
        import_from_here()
        try:
            module = importlib.import_module(name)
        except ImportError as error:
            raise ConfigError(
                f"steps: the module {name!r} cannot be imported ({error}). Install it, or run in "
                "the folder that holds it."
            ) from error
        declared = [value for value in vars(module).values() if isinstance(value, Step)]
        if not declared:
            raise ConfigError(f"steps: the module {name!r} declares no step (pipeline.steps.Step)")
        steps += declared
    return list(dict.fromkeys(steps))


def section_model(step: Step) -> type[BaseModel] | None:
    """The pydantic model of a step's section of the config; None for a step without one."""
    if step.settings is not None or not step.section:
        return step.settings
    from stages.configs import Experiment

    kind = Experiment.model_fields[step.section].annotation
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def step_of(stage: str, scene: str | None = None) -> Step | None:
    """The step whose artifacts lie in a stage folder; None where no declared step has it."""
    if scene is not None:
        inner = next((step for step in STEPS.values() if step.within == stage), None)
        if inner is not None:
            return inner
    return STEPS.get(stage)


def stage_folders() -> Collection[str]:
    """Names of the folders of all steps, earlier names included."""
    folders = (folder for step in STEPS.values() for folder in (step.stage_folder, *step.former))
    return dict.fromkeys(folders)
