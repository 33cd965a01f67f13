"""Configs of the stages that train LISA-nano, the settings of ``TrainNanoTeacher``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.network_configs import Count, NonNegative, Positive, Seed, StageConfig


class NanoPicturesConfig(StageConfig):
    """Rendered training pictures of rooms."""

    shards: Count = 80
    """Number of shards of pictures; each shard is a separate task."""
    rooms_per_shard: Count = 50
    """Rooms per shard."""
    views: Count = 8
    """Pictures per room."""
    vertex_spacing: Annotated[float, Field(ge=0.01, le=0.5)] = 0.1
    """Grid edge of the rooms' meshes, metres; coarser than the demo's, in a third of the time."""
    oversampling: Annotated[float, Field(ge=1, le=4)] = 1.5
    """Factor by which pictures are rendered larger before they are reduced."""
    scanned_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Share of rooms with small things lying about, in pictures of a hand-held camera."""
    seed: Seed = 20261122
    """Base seed; no demo room of any seed is among these rooms."""


class NanoLossConfig(StageConfig):
    """Weights of the losses, equal in all training stages."""

    bce: NonNegative = 2.0
    """Cross entropy of masks over all cells."""
    dice: NonNegative = 1.0
    """Dice loss of the masks of targets in view."""
    iou: NonNegative = 1.0
    """Squared error of the predicted IoU, whose target is 0 for targets out of view."""
    dense: NonNegative = 1.0
    """Cross entropy of the labels of every cell and patch, from both towers."""
    paint: NonNegative = 0.5
    """Absolute error of the colours of every cell and patch."""
    language: NonNegative = 2.0
    """Cross entropy of the tokens of answers."""
    align: NonNegative = 1.0
    """Squared distance of [SEG] embeddings and label prompts; it fades out by 60 % of the joint
    stage."""
    in_view: NonNegative = 0.5
    """Cross entropy of the labels in view, predicted at the end of the image."""
    tokens: NonNegative = 0.2
    """Cross entropy that separates the [SEG] embeddings of different labels and colours."""


class NanoTrainConfig(StageConfig):
    """Training of LISA-nano."""

    start: str = ""
    """Folder of a LISA-nano to go on from, which gives the tokenizer, too; "" for random weights
    and a tokenizer of its own. Its heads of training are not in the folder, so labels never prompt
    masks and ``tower_steps`` should be 0."""
    tower_steps: Annotated[int, Field(ge=0)] = 1600
    """Steps of the first stage: towers and mask decoder without language."""
    joint_steps: Annotated[int, Field(ge=0)] = 4000
    """Steps of the joint stage: all parts together."""
    wording_steps: Count = 900
    """Steps of the last stage: the language model alone, with freer wordings."""
    batch: Count = 16
    """Pictures per step and process; half as many in the last stage."""
    queries: Count = 6
    """Questions per picture; twice as many in the last stage."""
    lr: Positive = 0.001
    """Peak learning rate of AdamW, for vectors, embeddings, first and last layers."""
    matrix_lr: Positive = 0.003
    """Peak learning rate of Muon, for the matrices of the inner layers."""
    weight_decay: NonNegative = 0.05
    """Weight decay of matrices."""
    seed: Seed = 0
    """Seed of weights, pictures and questions."""
    weights: NanoLossConfig = NanoLossConfig()
    """Weights of the losses."""


class NanoExamConfig(StageConfig):
    """Evaluation of the trained teacher."""

    rooms: Count = 60
    """Rooms of the demo's generator, none of them among the demo's or the training's."""
    views: Count = 6
    """Pictures per room; half of the rooms are scanned."""
    questions: Count = 8
    """Questions per picture, each asked in training words and in held-out words."""
    strangers: Annotated[int, Field(ge=0)] = 4
    """Sentences per picture to which no room has an answer."""
    kept: Annotated[float, Field(gt=0, le=1)] = 0.96
    """Share of the tuning sentences about things that rooms hold that the checkpoint must not
    refuse beside a mean picture; the threshold of its refusals follows."""
    seed: Seed = 20261123
    """Seed of rooms and questions."""


class NanoConfig(StageConfig):
    """All settings of ``TrainNanoTeacher``."""

    pictures: NanoPicturesConfig = NanoPicturesConfig()
    """Training pictures."""
    train: NanoTrainConfig = NanoTrainConfig()
    """Training."""
    exam: NanoExamConfig = NanoExamConfig()
    """Evaluation."""
