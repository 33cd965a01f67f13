"""Configs of the student and its training."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from data.errors import ConfigError
from stages.config_base import Count, Fraction, NonNegative, Positive, Seed, StageConfig


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
    """The student's own answers mend the labels it learns from, see ``stages.self_training``."""

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
