"""Configs of teachers, student and text encoder, and the base class of all configs."""

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
    """Base of all stage configs: immutable, strict, closed, finite."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class AugmentConfig(StageConfig):
    """Changes of a training scene that keep its queries true."""

    rotate: bool = True
    """Turn about the vertical axis by any angle."""
    mirror: bool = True
    """Mirror half of the time, never with a query that speaks of left or right."""
    scale: Fraction = 0.1
    """Scale by up to this share either way."""
    color: Fraction = 0.05
    """Shift brightness by up to this share either way."""


class LossConfig(StageConfig):
    """Weights of the training losses."""

    bce: NonNegative = 1.0
    """Binary cross entropy on superpoints whose label is clear."""
    dice: NonNegative = 1.0
    """Dice on the same, of queries that have a target."""
    neighbours: NonNegative = 0.1
    """Difference of the predictions of superpoints that touch and look like one object."""
    feature: NonNegative = 0.2
    """One minus cosine between features and the tokens of queries that claim a superpoint."""
    absent: NonNegative = 0.2
    """Cross entropy of negatives: queries of other scenes, taken to be absent here."""
    image: NonNegative = 0.0
    """One minus cosine between features of a head of its own and the teacher's image features
    (SAM's, for a LISA), of superpoints that a view saw; above 0 it adds the stage LiftFeatures."""
    positive_weight: Positive = 3.0
    """How much more a positive counts in the cross entropy."""


class SelfTrainingConfig(StageConfig):
    """The student's answers mend the labels it learns from, see ``train_student``."""

    start: Fraction = 0.0
    """Share of the epochs after which labels are mended once; 0 for never. Truth never is."""
    object_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """As in prediction."""
    object_share: Fraction = 0.5
    """As in prediction."""
    sure: Fraction = 0.8
    """Superpoints that no view saw are labelled where the student is this sure, |2 p - 1|."""
    presence: Fraction = 0.3
    """Queries no mended label of which reaches this have no object."""


class StudentConfig(StageConfig):
    """The sparse 3D U-Net and its training."""

    preset: Literal["tiny", "minkunet14", "minkunet34"] = "tiny"
    """Size of the backbone."""
    voxel_size: Annotated[float, Field(ge=0.005, le=0.5)] = 0.1
    """Edge of a voxel, metres; real scans deserve 0.02 to 0.05 and a larger preset."""
    feature_dim: Annotated[int, Field(ge=4, le=1024)] = 128
    """Length of the superpoints' features."""
    fusion: Literal["closed_form", "learnt"] = "learnt"
    """How the tokens of a query's views become one: as in fusion, or by a small transformer
    that starts as that and learns with the student."""
    epochs: Count = 60
    """Passes over the training scenes."""
    batch_scenes: Count = 2
    """Scenes per optimiser step."""
    queries_per_scene: Count = 48
    """Queries drawn per scene and step."""
    negatives_per_scene: Annotated[int, Field(ge=0, le=4096)] = 4
    """Queries of other scenes drawn per scene and step, as objects that are absent."""
    negative_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.3
    """Only tokens whose cosine to all tokens of the scene is lower serve as negatives."""
    optimizer: Literal["adamw", "sgd"] = "adamw"
    """``sgd`` with momentum 0.9 is what the paper used."""
    lr: Positive = 0.01
    """Peak learning rate."""
    weight_decay: NonNegative = 0.01
    """Weight decay."""
    seed: Seed = 0
    """Seed of weights, order of scenes, queries and augmentation."""
    supervision: Literal["label_free", "oracle"] = "label_free"
    """``oracle`` trains on ground truth instead: the upper bound, never label-free."""
    augment: AugmentConfig = AugmentConfig()
    """Augmentation."""
    loss: LossConfig = LossConfig()
    """Loss weights."""
    self_training: SelfTrainingConfig = SelfTrainingConfig()
    """Self-training."""


class FinetuneConfig(StageConfig):
    """Training a label-free student further on ground truth; never label-free itself."""

    start: str = ""
    """The student to start from: a scene set (its student under the same config) or a student's
    folder. Set by ``Finetune --from``; empty for no fine-tuning."""
    epochs: Count = 20
    """Passes over the training scenes."""
    lr: Positive = 0.0003
    """Peak learning rate; all else is as in ``student``."""

    def applied_to(self, student: StudentConfig) -> StudentConfig:
        """How a student is trained further: on truth, at this section's pace."""
        pace = {"epochs": self.epochs, "lr": self.lr}
        return student.model_copy(update={"supervision": "oracle", **pace})


def check_processes(cfg: StudentConfig, processes: int) -> None:
    """Refuse, with ConfigError, a number of processes that a batch's scenes cannot be dealt to."""
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
    """Errors of the oracle teacher, each a rate of (view, query) pairs."""

    ragged: Fraction = 0.3
    """How far borders are gnawed: 0 none, 1 by about 10 % of the image."""
    miss: Fraction = 0.1
    """Visible objects answered without a mask."""
    confuse: Fraction = 0.2
    """Masks drawn on another visible object instead."""
    hallucinate: Fraction = 0.3
    """Masks drawn though the object is not in view."""
    token_noise: NonNegative = 0.3
    """Length of the noise added to unit [SEG] vectors."""
    iou_noise: NonNegative = 0.15
    """Standard deviation of the noise on predicted IoUs."""
    min_cells: Count = 8
    """An object is in view from this many mask cells on."""
    stride: Annotated[int, Field(ge=1, le=64)] = 4
    """Image pixels per mask cell."""


class LisaConfig(StageConfig):
    """LISA's weights and how LISA is asked; the defaults are those of MLLM-For3D."""

    weights: str = ""
    """Folder of the published checkpoint or its hub id; empty: the weights of ``lisa_nano``."""
    vision_tower: str = ""
    """Folder or hub id of the CLIP tower; empty: the one that the checkpoint names."""
    conversation: Literal["llava_v1", "llava_llama_2"] = "llava_v1"
    """Template of the prompt."""
    use_start_end: bool | None = None
    """Image between start and end tokens; none: yes, except for ``lisa_plus``."""
    question_form: Literal["auto", "sentence", "phrase", "explain", "raw"] = "auto"
    """How a query becomes a question; ``auto`` tells sentences and phrases apart."""
    task_suffix: Literal[
        "", "semantic", "instance", "semantic_text", "instance_text", "text", "steps"
    ] = ""
    """Sentence with which LISA++ is told its task."""
    masks: Literal["single", "best_of_three"] = "single"
    """``best_of_three`` keeps, of SAM's three further masks, that of the highest predicted IoU."""
    dtype: Dtype | None = None
    """Precision; none: float32 for ``lisa_nano``, bfloat16 for the others."""
    quantize: Literal["none", "8bit", "4bit"] = "none"
    """Language model in 8 or 4 bit: needs the extra ``quantized`` and a GPU."""
    max_new_tokens: Annotated[int, Field(ge=1, le=4096)] = 32
    """Longest answer, tokens."""
    whole_answer: bool = False
    """Decode the whole answer, all its [SEG]s included, instead of up to the first [SEG]."""


class TeacherConfig(StageConfig):
    """The 2D teacher and how it is asked."""

    name: TeacherName = "lisa_nano"
    """Which teacher; ``lisa_nano`` knows rendered rooms only; ``oracle`` reads ground truth."""
    seed: Seed = 0
    """Seed of whatever the teacher draws; LISA draws nothing."""
    oracle: OracleConfig = OracleConfig()
    """Error model of the oracle."""
    lisa: LisaConfig = LisaConfig()
    """``lisa_nano``, ``lisa`` and ``lisa_plus``."""
    class_: str = Field(default="", alias="class", pattern=r"^([\w.]+:\w+)?$")
    """A teacher of your own as ``module:Class``; setting it means ``custom``."""
    options: dict[str, JsonValue] = {}
    """Keyword arguments of that class."""

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
        """Whether several may work at once on a machine without GPUs."""
        return self.name in ("oracle", "lisa_nano")

    @property
    def is_lisa(self) -> bool:
        """Whether the chosen teacher is LISA in any of its sizes."""
        return self.name in ("lisa_nano", "lisa", "lisa_plus")

    @property
    def use_start_end(self) -> bool:
        """Whether LISA's image stands between start and end tokens."""
        chosen = self.lisa.use_start_end
        return self.name != "lisa_plus" if chosen is None else chosen

    @property
    def dtype(self) -> Dtype:
        """Precision of LISA's language model and CLIP."""
        return self.lisa.dtype or ("float32" if self.name == "lisa_nano" else "bfloat16")


class TextConfig(StageConfig):
    """What turns a new sentence into a query token when there is no teacher and no image."""

    encoder: Literal["teacher", "sentence", "clip"] = "teacher"
    """``teacher``: LISA's own language model behind a mean image; ``sentence``: a sentence
    encoder such as MiniLM; ``clip``: CLIP's text tower."""
    weights: str = ""
    """Folder or hub id of the ``sentence`` or ``clip`` encoder; empty with ``teacher``."""
    images_per_scene: Count = 2
    """``teacher``: pictures of each scene that the mean image is averaged over."""

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
