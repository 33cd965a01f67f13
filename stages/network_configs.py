"""Configs of teachers, student and text encoder, and the base class of all stage configs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    field_validator,
    model_validator,
)

from data.errors import ConfigError

Fraction = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0, le=2**31 - 1)]


class StageConfig(BaseModel):
    """Base of all stage configs: immutable, with strict types and no unknown keys, NaN or inf."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class AugmentConfig(StageConfig):
    """Augmentation of training scenes; it keeps their queries true."""

    rotate: bool = True
    """Rotate about the vertical axis by a random angle."""
    mirror: bool = True
    """Mirror with probability 1/2, except in scenes with a query about left or right."""
    scale: Fraction = 0.1
    """Scale by a random factor between 1 minus and 1 plus this."""
    color: Fraction = 0.05
    """Shift brightness (range 0 to 1) by at most this up or down."""


class LossConfig(StageConfig):
    """Weights of the training losses."""

    bce: NonNegative = 1.0
    """Binary cross entropy over superpoints, weighted by the confidence of their labels."""
    dice: NonNegative = 1.0
    """Soft Dice loss with the same weights, over queries that have a target."""
    neighbours: NonNegative = 0.1
    """Squared difference of the predictions of adjacent superpoints, weighted by affinity."""
    feature: NonNegative = 0.2
    """One minus the cosine of a superpoint's feature and the tokens of queries that claim it."""
    absent: NonNegative = 0.2
    """Cross entropy of negatives: queries of other scenes, assumed to be absent here."""
    image: NonNegative = 0.0
    """One minus the cosine of the output of a separate head and the teacher's image features
    (SAM's for LISA), over superpoints that a view sees; above 0 it adds the stage LiftFeatures."""
    positive_weight: Positive = 3.0
    """Factor on the positive part of the cross entropy."""


class SelfTrainingConfig(StageConfig):
    """Refinement of the labels by the student's predictions, see ``train_student``."""

    start: Fraction = 0.0
    """Share of the epochs after which labels are refined once; 0 for never. Ground truth is never
    refined."""
    object_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """Adjacent superpoints form one object if the cosine of their features is higher."""
    object_share: Fraction = 0.5
    """Share of a superpoint's score that is the mean score of its object; 0 for none."""
    sure: Fraction = 0.8
    """Superpoints that no view sees get the student's label where |2 p - 1| is at least this."""
    presence: Fraction = 0.3
    """Queries whose largest refined label is lower have no object."""


class StudentConfig(StageConfig):
    """The sparse 3D U-Net and its training."""

    least_scenes: Count = 1
    """Fewest training scenes with which a student is trained; with fewer, the fused labels are the
    answer. A student of a few scans copies its labels, a little worse everywhere."""
    preset: Literal["nano", "tiny", "minkunet14", "minkunet34"] = "tiny"
    """Size of the backbone; ``nano`` is for trials of a pipeline and learns little."""
    voxel_size: Annotated[float, Field(ge=0.005, le=0.5)] = 0.1
    """Edge of a voxel, metres; use 0.02 to 0.05 and a larger preset for real scans."""
    feature_dim: Annotated[int, Field(ge=4, le=1024)] = 128
    """Length of the superpoints' features."""
    fusion: Literal["closed_form", "learnt"] = "learnt"
    """Fusion of the [SEG] embeddings of a query's views: ``closed_form`` uses the weights of label
    fusion; ``learnt`` starts from them and corrects them by a small transformer that is trained
    with the student."""
    epochs: Count = 60
    """Passes over the training scenes."""
    batch_scenes: Count = 2
    """Scenes per optimiser step."""
    queries_per_scene: Count = 48
    """Queries drawn per scene and step."""
    negatives_per_scene: Annotated[int, Field(ge=0, le=4096)] = 4
    """Negatives drawn per scene and step: queries of other scenes, assumed absent."""
    negative_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """Negatives are tokens whose cosine with every token of the scene is lower."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """Optimiser; the paper used ``sgd`` with momentum 0.9."""
    lr: Positive = 0.01
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Weight decay."""
    seed: Seed = 0
    """Seed of weights, order of scenes, queries and augmentation."""
    supervision: Literal["label_free", "oracle"] = "label_free"
    """``label_free`` trains on fused labels, ``oracle`` on ground truth as the upper bound."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation."""
    loss: LossConfig = LossConfig()
    """Loss weights."""
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    """Self-training."""


class FinetuneConfig(StageConfig):
    """Fine-tuning of a label-free student on ground truth; the result is not label-free."""

    start: str = ""
    """Student to start from: a scene set (its student under the same config) or the folder of a
    student. Set by ``Finetune --from``; empty for no fine-tuning."""
    epochs: Count = 20
    """Passes over the training scenes."""
    lr: Positive = 0.0003
    """Peak learning rate; all other settings are those of ``student``."""

    def applied_to(self, student: StudentConfig) -> StudentConfig:
        """Return ``student`` with ground truth as supervision and this section's schedule."""
        schedule = {"epochs": self.epochs, "lr": self.lr}
        return student.model_copy(update={"supervision": "oracle", **schedule})


def check_processes(cfg: StudentConfig, processes: int) -> None:
    """Raise ConfigError unless each of ``processes`` can get at least one scene of a batch."""
    if processes < 1:
        raise ConfigError(f"--train-processes: expected at least 1, found {processes}.")
    if processes > cfg.batch_scenes:
        raise ConfigError(
            f"--train-processes: expected at most student.batch_scenes, which is "
            f"{cfg.batch_scenes}, for each process takes scenes of every batch; found "
            f"{processes}. Ask for {cfg.batch_scenes}, or raise student.batch_scenes."
        )


TeacherName = Literal["lisa_nano", "lisa", "lisa_plus", "oracle", "custom"]
Dtype = Literal["float32", "bfloat16", "float16"]


class OracleConfig(StageConfig):
    """Error model of the oracle teacher; rates are shares of (view, query) pairs."""

    ragged: Fraction = 0.3
    """Displacement of mask borders: 0 for none, 1 for about 10 % of the image."""
    miss: Fraction = 0.1
    """Rate of visible objects answered without a mask."""
    confuse: Fraction = 0.2
    """Rate of masks drawn on another visible object."""
    hallucinate: Fraction = 0.3
    """Rate of masks drawn although the object is not in view."""
    token_noise: NonNegative = 0.3
    """Length of the noise vector added to unit [SEG] embeddings."""
    iou_noise: NonNegative = 0.15
    """Standard deviation of the noise added to predicted IoUs."""
    min_cells: Count = 8
    """Smallest number of mask cells of an object in view."""
    stride: Annotated[int, Field(ge=1, le=64)] = 4
    """Image pixels per mask cell."""


class LisaConfig(StageConfig):
    """Weights and prompts of LISA; the defaults are those of MLLM-For3D."""

    weights: str = ""
    """Folder of the published checkpoint or its hub id; empty for the weights of ``lisa_nano``."""
    vision_tower: str = ""
    """Folder or hub id of the CLIP tower; empty for the tower that the checkpoint names."""
    conversation: Literal["llava_v1", "llava_llama_2"] = "llava_v1"
    """Template of the prompt."""
    use_start_end: bool | None = None
    """Put the image between start and end tokens; null means true, except for ``lisa_plus``."""
    question_form: Literal["auto", "sentence", "phrase", "explain", "raw"] = "auto"
    """Template that turns a query into a question; ``auto`` distinguishes sentences and phrases."""
    task_suffix: Literal[
        "", "semantic", "instance", "semantic_text", "instance_text", "text", "steps"
    ] = ""
    """Task sentence of LISA++ that is appended to the question; empty for none."""
    masks: Literal["single", "best_of_three"] = "single"
    """SAM's single mask, or the one of its three further masks with the highest predicted IoU."""
    dtype: Dtype | None = None
    """Precision; null means float32 for ``lisa_nano``, bfloat16 for the others."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Quantisation of the language model; needs the extra ``quantized`` and a GPU."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """Most tokens of an answer."""
    whole_answer: bool = False
    """Decode the whole answer with all its [SEG]s, instead of stopping at the first [SEG]."""


class TeacherConfig(StageConfig):
    """The 2D teacher and its settings."""

    name: TeacherName = "lisa_nano"
    """Teacher; ``lisa_nano`` is trained on rendered rooms only; ``oracle`` reads ground truth."""
    seed: Seed = 0
    """Random seed of the teacher; LISA is deterministic and ignores it."""
    oracle: OracleConfig = OracleConfig()
    """Error model of the oracle."""
    lisa: LisaConfig = LisaConfig()
    """Settings of ``lisa_nano``, ``lisa`` and ``lisa_plus``."""
    class_: str = Field(default="", alias="class", pattern=r"^([\w.]+:\w+)?$")
    """Class of a custom teacher as ``module:Class``; setting it sets ``name`` to ``custom``."""
    options: dict[str, JsonValue] = {}
    """Keyword arguments of the custom class."""

    @model_validator(mode="before")
    @classmethod
    def _class_means_custom(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        if content.get("class"):
            return {**content, "name": "custom"}
        return {**content, "class": content.get("class", "")}

    @field_validator("class_")
    @classmethod
    def _custom_needs_a_class(cls, value: str, info: ValidationInfo) -> str:
        if not value and info.data.get("name") == "custom":
            raise ValueError("the teacher 'custom' needs a class, such as my_module:MyTeacher")
        return value

    @property
    def is_small(self) -> bool:
        """Whether several teachers may run at once on a machine without GPUs."""
        return self.name in ("oracle", "lisa_nano")

    @property
    def is_lisa(self) -> bool:
        """Whether the chosen teacher is LISA in any of its sizes."""
        return self.name in ("lisa_nano", "lisa", "lisa_plus")

    @property
    def use_start_end(self) -> bool:
        """Whether the prompt puts LISA's image between start and end tokens."""
        chosen = self.lisa.use_start_end
        return self.name != "lisa_plus" if chosen is None else chosen

    @property
    def dtype(self) -> Dtype:
        """Precision of LISA's language model and CLIP."""
        return self.lisa.dtype or ("float32" if self.name == "lisa_nano" else "bfloat16")


class TextConfig(StageConfig):
    """Text encoder that turns a new sentence into a query token without teacher and image."""

    encoder: Literal["teacher", "sentence", "clip"] = "teacher"
    """``teacher``: LISA's language model with a mean image; ``sentence``: a sentence encoder such
    as MiniLM; ``clip``: CLIP's text tower."""
    weights: str = ""
    """Folder or hub id of the ``sentence`` or ``clip`` encoder; empty with ``teacher``."""
    images_per_scene: Count = 2
    """``teacher``: number of images per scene over which the mean image is averaged."""

    @model_validator(mode="after")
    def _weights_belong_to_the_encoder(self) -> TextConfig:
        if self.encoder == "teacher" and self.weights:
            raise ValueError(
                "text.weights are for text.encoder=sentence or clip; the encoder 'teacher' "
                "takes those of the teacher (teacher.lisa.weights)"
            )
        if self.encoder != "teacher" and not self.weights:
            raise ValueError(
                f"text.encoder={self.encoder} needs text.weights: a folder with config.json, "
                "weights and tokenizer, or a hub id"
            )
        return self
