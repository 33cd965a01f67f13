"""Configs of the 2D teachers: which one, and how it is asked."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationInfo, field_validator, model_validator

from stages.config_base import Count, Fraction, NonNegative, Seed, StageConfig

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
