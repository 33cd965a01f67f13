"""Configs of the stages that make LISA-nano: what ``TrainNanoTeacher`` may be told."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from stages.network_configs import Count, NonNegative, Positive, Seed, StageConfig


class NanoPicturesConfig(StageConfig):
    """Pictures of rooms to learn from."""

    shards: Count = 80
    """Files of pictures; each is made, and made again, on its own."""
    rooms_per_shard: Count = 50
    """Rooms in each."""
    views: Count = 8
    """Pictures of each room."""
    vertex_spacing: Annotated[float, Field(ge=0.01, le=0.5)] = 0.1
    """Grid edge of the rooms' meshes, metres; coarser light than the demo's, a third the time."""
    oversampling: Annotated[float, Field(ge=1, le=4)] = 1.5
    """How much larger pictures are rendered before they are reduced."""
    seed: Seed = 20261122
    """Base seed; no demo room of any seed is among these rooms."""


class NanoLossConfig(StageConfig):
    """Weights of the terms of the losses, the same in all stages."""

    bce: NonNegative = 2.0
    """Masks, cross entropy over all cells."""
    dice: NonNegative = 1.0
    """Masks of what is shown, overlap."""
    iou: NonNegative = 1.0
    """SAM's own guess of a mask's IoU; 0 where nothing is shown."""
    dense: NonNegative = 1.0
    """Labels of every cell and patch, from both towers."""
    paint: NonNegative = 0.5
    """Colours of every cell and patch."""
    language: NonNegative = 2.0
    """Answers, word by word."""
    align: NonNegative = 1.0
    """[SEG] embeddings near the label prompts, fading out by 60 % of the joint stage."""
    in_view: NonNegative = 0.5
    """Labels in view, told from the state after the image."""
    tokens: NonNegative = 0.2
    """[SEG] embeddings of unlike labels and colours apart."""


class NanoTrainConfig(StageConfig):
    """Training of LISA-nano."""

    tower_steps: Count = 1600
    """Steps without language."""
    joint_steps: Count = 4000
    """Steps of all parts together."""
    wording_steps: Count = 600
    """Steps of the language alone, asked more loosely."""
    batch: Count = 16
    """Pictures per step and process."""
    queries: Count = 6
    """Questions per picture."""
    lr: Positive = 0.001
    """Peak learning rate of vectors, embeddings and outer layers (AdamW)."""
    matrix_lr: Positive = 0.003
    """Peak learning rate of the inner layers' matrices (Muon)."""
    weight_decay: NonNegative = 0.05
    """Weight decay of matrices."""
    seed: Seed = 0
    """Seed of weights, pictures and questions."""
    weights: NanoLossConfig = NanoLossConfig()
    """Weights of the losses."""


class NanoExamConfig(StageConfig):
    """What the finished teacher is measured on."""

    rooms: Count = 60
    """Rooms, as the demo makes them, none of them among the demo's or the training's."""
    views: Count = 6
    """Pictures of each."""
    questions: Count = 8
    """Questions per picture, each asked in seen and in held-out words."""
    seed: Seed = 20261123
    """Seed of rooms and questions."""


class NanoConfig(StageConfig):
    """Everything ``TrainNanoTeacher`` may be told."""

    pictures: NanoPicturesConfig = NanoPicturesConfig()
    """Training pictures."""
    train: NanoTrainConfig = NanoTrainConfig()
    """Training."""
    exam: NanoExamConfig = NanoExamConfig()
    """Measuring."""
