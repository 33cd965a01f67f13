"""Steps from the teacher's masks to soft labels of points, students and their predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ConfigError
from pipeline.steps.declaration import Input, Origin, Part, Preload, Source, Step, declare
from pipeline.steps.questions import Questions, question_inputs, read_questions
from pipeline.steps.scans import BANK, bank_identity
from pipeline.steps.step_inputs import StepInputs
from pipeline.steps.teaching import learns_features
from stages.teacher.identity import text_identity

if TYPE_CHECKING:
    from pipeline.plan import Plan
    from stages.configs import StudentConfig


def learns_truth(plan: Plan) -> bool:
    """Whether the student is the upper bound, trained on ground truth."""
    return plan.learns_truth


def has_student(plan: Plan) -> bool:
    """Whether a student answers; without one, the fused labels do."""
    return plan.has_student


def _label_free(plan: Plan) -> bool:
    return not plan.learns_truth


def asks_by_words(plan: Plan) -> bool:
    """Whether the student is queried by a sentence alone, without the teacher's tokens."""
    return plan.experiment.predict.tokens == "text"


def _asks_by_views(plan: Plan) -> bool:
    return not asks_by_words(plan)


def make_labels(inputs: StepInputs, folder: Path) -> None:
    """Fuse the teacher's masks of many views into soft labels of points."""
    import numpy as np

    from data.artifacts.soft_masks import write_pseudo
    from data.queries.prompts import BANK_TASK
    from stages.fusion import fuse_masks as stage
    from stages.relations.by_labels import relate_labels

    questions, scene = read_questions(inputs), inputs.read("scene")
    prompts = questions.asked(inputs.scene)
    labels = stage.run(
        scene,
        inputs.read("links"),
        inputs.read("teacher"),
        inputs.config,
        np.array([prompt.task == BANK_TASK for prompt in prompts], bool),
        inputs.progress(),
        inputs.device_if_gpu,
    )
    if inputs.config.relations:
        related = questions.related(inputs.scene, labels.prompt_ids)
        relate_labels(labels, related, scene)
    write_pseudo(folder, labels)


def make_oracle_labels(inputs: StepInputs, folder: Path) -> None:
    """Write the ground truth of one scene as soft labels, for the upper bound."""
    from data.artifacts.soft_masks import write_pseudo
    from stages.fusion import oracle_labels as stage

    questions = read_questions(inputs)
    labels = stage.run(
        inputs.read("labels"),
        inputs.read("scene"),
        questions.asked(inputs.scene),
        questions.truths(inputs.read("prompts", "truths"), inputs.scene),
    )
    write_pseudo(folder, labels)


class _TrainingScenes(Sequence[Any]):
    """The training scenes; each access reads the scene from its artifacts."""

    def __init__(self, inputs: StepInputs) -> None:
        self._inputs, self._names = inputs, inputs.scenes("labels")
        self._questions: Questions | None = None

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: Any) -> Any:
        from stages.student.training_samples import TrainingScene

        inputs, name = self._inputs, self._names[index]
        if self._questions is None:
            self._questions = read_questions(inputs)
        # Sentences that relate things are answered by their phrases. Their own tokens tell what is
        # looked for and not which: learnt with one of several as the target, they blur the others.
        labels = inputs.read("labels", scene=name).without(self._questions.trees)
        return TrainingScene(
            inputs.read("scene", scene=name),
            self._questions.asked(name),
            labels,
            inputs.read("features", scene=name) if inputs.has("features") else None,
        )


def make_student(inputs: StepInputs, folder: Path) -> None:
    """Train the student, or continue from the last checkpoint in the folder."""
    from stages.student import train_student as stage

    show, scenes = inputs.progress(alone=True), _TrainingScenes(inputs)
    stage.run(scenes, inputs.config, folder, inputs.device, show, processes=inputs.processes)


def make_finetuned(inputs: StepInputs, folder: Path) -> None:
    """Fine-tune another student on ground truth, or continue from the folder's last checkpoint."""
    from stages.student import train_student as stage

    cfg: StudentConfig = inputs.section("finetune").applied_to(inputs.config)
    show, scenes, start = (
        inputs.progress(alone=True),
        _TrainingScenes(inputs),
        inputs.folder("start"),
    )
    stage.run(scenes, cfg, folder, inputs.device, show, start, inputs.processes)


def make_text_student(inputs: StepInputs, folder: Path) -> None:
    """Train the adapter from words to query tokens on the tokens of all training scenes."""
    from data.artifacts.student import write_text_student
    from stages.student import distil_text as stage

    questions = read_questions(inputs)
    scenes = [_text_scene(inputs, questions, name) for name in inputs.scenes("labels")]
    teacher, show = inputs.section("teacher"), inputs.progress(alone=True)
    write_text_student(folder, stage.run(scenes, inputs.config, teacher, inputs.device, show))


def _text_scene(inputs: StepInputs, questions: Questions, name: str) -> Any:
    from stages.student.distil_text import TextScene

    labels = inputs.read("labels", scene=name)
    texts = {prompt.prompt_id: prompt.text for prompt in questions.asked(name)}
    sentences = tuple(texts[prompt_id] for prompt_id in labels.prompt_ids)
    views = inputs.read("scene", scene=name).views
    return TextScene(name, sentences, labels.query_tokens, tuple(views))


def make_predictions(inputs: StepInputs, folder: Path) -> None:
    """Predict the student's masks for one scene's queries and the bank's categories.

    Without a student, the masks are those of the labels.
    """
    from data.artifacts.soft_masks import write_predictions
    from stages.relations.by_words import Asking
    from stages.student import predict_masks as stage

    if not inputs.has("student"):
        write_predictions(folder, stage.run_without_student(inputs.read("labels"), inputs.config))
        return
    cfg, device, student = inputs.config, inputs.device, inputs.folder("student")
    scene = inputs.read("scene")
    if inputs.has("text"):
        questions = read_questions(inputs)
        prompts = questions.asked(inputs.scene)
        prompt_ids = tuple(prompt.prompt_id for prompt in prompts)
        trees = [questions.trees.get(name) for name in prompt_ids]
        asking = Asking.of([prompt.text for prompt in prompts], trees)
        words = _encoded(inputs, asking.texts, device)
        predictions = stage.run_by_words(scene, prompt_ids, words, student, cfg, device, asking)
    else:
        labels = inputs.read("labels")
        related = read_questions(inputs).related(inputs.scene, labels.prompt_ids)
        predictions = stage.run(scene, labels, student, cfg, device, related)
    write_predictions(folder, predictions)


def _encoded(inputs: StepInputs, words: Sequence[str], device: str) -> Any:
    from stages.student.text_encoding import encode_queries

    configs = inputs.section("text"), inputs.section("teacher")
    return encode_queries(inputs.read("text"), words, *configs, device)


def _finetuning(plan: Plan) -> Mapping[str, Any]:
    applied = plan.experiment.finetune.applied_to(plan.experiment.student)
    return applied.model_dump(exclude={"least_scenes"})


def _training(plan: Plan) -> Mapping[str, Any]:
    return plan.experiment.student.model_dump(exclude={"least_scenes"})


def _refuse_no_start(plan: Plan) -> None:
    if not plan.experiment.finetune.start:
        raise ConfigError(
            "FinetuneStudent: expected a student to start from in finetune.start, found none. "
            "Run Finetune --from with a scene set or the folder of a student."
        )


def _text_config(plan: Plan) -> Mapping[str, Any]:
    return text_identity(plan.experiment.text, plan.experiment.teacher)[0]


def _text_weights(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    return text_identity(plan.experiment.text, plan.experiment.teacher)[1]


def _predict_config(plan: Plan) -> Mapping[str, Any]:
    cfg = plan.experiment
    by_words = {"relations": cfg.relations.model_dump()} if asks_by_words(plan) else {}
    return {**cfg.predict.model_dump(exclude={"student"}), **by_words}


def _bank_by_words(plan: Plan, scene_id: str | None) -> Mapping[str, str]:
    return bank_identity(plan) if asks_by_words(plan) else {}


def start_student(plan: Plan) -> Origin:
    """The student that the config names, to start from or to query."""
    source = plan.source
    if source is None:
        raise LookupError("the config names no student")
    return Origin(source.plan, source.key.stage, source.key)


def answering_student(plan: Plan) -> Origin:
    """The student that answers: this set's, this set's fine-tuned one, or another set's."""
    if plan.experiment.finetune.start:
        return Origin(plan, "finetune_student", plan.key("finetune_student"))
    if plan.experiment.predict.student:
        return start_student(plan)
    return Origin(plan, "train_student", plan.key("train_student"))


def answering_text(plan: Plan) -> Origin:
    """The text student that belongs to the answering student; ConfigError for a bare folder."""
    source = plan.source if plan.experiment.predict.student else None
    if source is None:
        return Origin(plan, "distil_text", plan.key("distil_text"))
    if source.plan is None:
        raise ConfigError(
            f"predict.tokens=text: {source.reference} is the folder of a student, which does "
            "not say where its text student lies. Name the scene set instead."
        )
    return Origin(source.plan, "distil_text", source.plan.key("distil_text"))


def _training_inputs() -> tuple[Input, ...]:
    """Inputs of a training besides its labels: scenes, words of the queries, image features."""
    return (
        Input("scene", "prepare_scene", ("scene",), "train", "labels"),
        *question_inputs("labels"),
        Input("features", "lift_features", ("features",), "train", when=learns_features),
    )


_SOFT_LABELS = {"labels": Part("data.artifacts.soft_masks:read_pseudo")}
_STUDENT = {
    "model": Part("data.artifacts.student:read_model"),
    "log": Part("data.artifacts.student:read_log"),
}
# A training is the longest task that cannot be shared. Luigi passes its higher priority on to the
# tasks it requires, so these go first and validation scenes run beside the training.
_FIRST = 1
_CONVOLVES = Preload(
    ("stages.student.train_student", "data.artifacts.soft_masks"),
    ("models.sparse.cpu",),
    cuda_free_calls=("models.sparse.layers:load_spconv",),
)

FUSE_MASKS = declare(
    Step(
        name="fuse_masks",
        version=4,
        summary="Masks of many views to one soft label per point.",
        make="pipeline.steps.learning:make_labels",
        section="fuse",
        also=("prompts",),
        scenes="all",
        inputs=(
            Input("scene", "prepare_scene", ("scene",)),
            Input("links", "link_points", ("links",)),
            Input("teacher", "run_teacher", ("masks",)),
            *question_inputs("teacher"),
        ),
        parts=_SOFT_LABELS,
        uses_gpu=True,
        preload=Preload(
            ("stages.fusion.fuse_masks", "data.artifacts.soft_masks", "data.artifacts.teacher"),
            ("stages.fusion.votes", "stages.fusion.evidence"),
        ),
    )
)
ORACLE_LABELS = declare(
    Step(
        name="oracle_labels",
        version=1,
        summary="Ground truth in the shape of soft labels: for the upper bound, never label-free.",
        make="pipeline.steps.learning:make_oracle_labels",
        also=("prompts",),
        scenes="all",
        inputs=(
            Input("scene", "prepare_scene", ("truth",)),
            *question_inputs("", "truths"),
            Input("labels", "fuse_masks", ("labels",)),
        ),
        parts={"labels": Part("data.artifacts.soft_masks:read_pseudo", has_labels=True)},
        labels="oracle",
        needs_truth=True,
        preload=Preload(("stages.fusion.oracle_labels", "data.artifacts.soft_masks")),
    )
)
TRAIN_STUDENT = declare(
    Step(
        name="train_student",
        version=6,
        summary="The sparse 3D U-Net, trained on the training split's soft labels.",
        make="pipeline.steps.learning:make_student",
        section="student",
        config=_training,
        also=("prompts",),
        inputs=(
            Input("labels", "fuse_masks", ("labels",), "train", when=_label_free),
            Input("labels", "oracle_labels", ("labels",), "train", when=learns_truth),
            *_training_inputs(),
        ),
        parts=_STUDENT,
        oracle=learns_truth,
        resumable=True,
        trains=True,
        priority=_FIRST,
        preload=_CONVOLVES,
    )
)
FINETUNE_STUDENT = declare(
    Step(
        name="finetune_student",
        version=3,
        summary="Another student, trained further on the training split's truth.",
        make="pipeline.steps.learning:make_finetuned",
        section="student",
        config=_finetuning,
        also=("finetune", "prompts"),
        inputs=(
            Input("start", "train_student", scenes="set", origin=start_student),
            Input("labels", "oracle_labels", ("labels",), "train"),
            *_training_inputs(),
        ),
        parts=_STUDENT,
        labels="fine-tuning",
        needs_truth=True,
        check=_refuse_no_start,
        resumable=True,
        trains=True,
        priority=_FIRST,
        preload=_CONVOLVES,
    )
)
DISTIL_TEXT = declare(
    Step(
        name="distil_text",
        version=1,
        summary="An adapter from words to query tokens, so that new sentences need no teacher.",
        make="pipeline.steps.learning:make_text_student",
        section="text",
        config=_text_config,
        also=("teacher", "prompts"),
        inputs=(
            Input("labels", "fuse_masks", ("labels",), "train"),
            Input("scene", "prepare_scene", ("scene",), "train", "labels"),
            *question_inputs("labels"),
        ),
        sources=(Source(_text_weights, {"text_weights": "the text encoder's weights"}),),
        parts={"text": Part("data.artifacts.student:read_text_student")},
        uses_gpu=True,
        preload=Preload(("stages.student.distil_text", "data.artifacts.student")),
    )
)
PREDICT_MASKS = declare(
    Step(
        name="predict_masks",
        version=9,
        summary="The student's masks on the original points.",
        make="pipeline.steps.learning:make_predictions",
        section="predict",
        config=_predict_config,
        also=("text", "teacher", "prompts", "relations"),
        scenes="val",
        inputs=(
            Input(
                "student",
                "train_student",
                scenes="set",
                when=has_student,
                origin=answering_student,
            ),
            Input("labels", "fuse_masks", ("labels",), when=_asks_by_views),
            Input("scene", "prepare_scene", ("scene",), known_by="labels", when=_asks_by_views),
            Input(
                "text", "distil_text", ("text",), "set", when=asks_by_words, origin=answering_text
            ),
            Input("scene", "prepare_scene", ("scene",), when=asks_by_words),
            *question_inputs(when=asks_by_words),
            *question_inputs("labels", when=_asks_by_views),
        ),
        sources=(Source(_bank_by_words, BANK.explanations),),
        parts={"masks": Part("data.artifacts.soft_masks:read_predictions")},
        uses_gpu=True,
        preload=Preload(
            ("stages.student.predict_masks", "data.artifacts.soft_masks"),
            ("models.sparse.cpu",),
            cuda_free_calls=("models.sparse.layers:load_spconv",),
        ),
    )
)
