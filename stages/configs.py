"""One frozen config per stage; a YAML file or ``--overrides`` may set nothing else.

They stand together here (the teachers' in ``stages.teacher_config``), apart from the stages, so
that planning a run reads them without importing torch. Every field enters the fingerprint of its
stage, so device, worker count and output paths have no place here (a teacher's weights enter by
their content). Unknown keys, wrong types and values out of range are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stages.config_base import Count, Fraction, NonNegative, Positive, Seed
from stages.config_base import StageConfig as StageConfig
from stages.teacher_config import TeacherConfig as TeacherConfig


class GenerateConfig(StageConfig):
    """Procedural rooms in ScanNet++'s layout."""

    train_rooms: Count = 12
    """Rooms of the training split."""
    val_rooms: Count = 6
    """Rooms of the validation split."""
    views: Annotated[int, Field(ge=2, le=500)] = 24
    """Images per room."""
    height: Annotated[int, Field(ge=32, le=4096)] = 320
    """Image height, pixels."""
    width: Annotated[int, Field(ge=32, le=4096)] = 480
    """Image width, pixels."""
    vertex_spacing: Annotated[float, Field(ge=0.01, le=0.5)] = 0.05
    """Longest grid edge of the meshes, metres (diagonals are up to 1.42 times that)."""
    seed: Seed = 7
    """Base seed; room i of a split depends on (seed, split, i) only."""


class PrepareConfig(StageConfig):
    """Scan to scene: cameras, view selection, depth and superpoints."""

    camera: Literal["undistorted", "fisheye"] = "undistorted"
    """Which images of the scan to use."""
    max_views: Count = 50
    """Views kept, chosen greedily by how many unseen points each adds."""
    superpoint_threshold: Positive = 0.05
    """Graph over-segmentation: a larger value gives larger superpoints."""
    superpoint_min_points: Count = 20
    """Superpoints smaller than this join their closest neighbour."""


class PromptsConfig(StageConfig):
    """Query files to prompts: what their object ids mean."""

    id_space: Literal["auto", "position", "id", "objectId"] = "auto"
    """``auto`` compares object names with the scans' labels in each space."""
    min_agreement: Fraction = 0.8
    """``auto``: share of names that must agree; under it the queries are refused."""


class LinkConfig(StageConfig):
    """Which points a view sees."""

    near: Positive = 0.05
    """Points closer than this to the camera plane are not linked, metres."""
    depth_tolerance: Positive = 0.05
    """Largest difference between a point's z and the depth map, metres (absolute part)."""
    depth_tolerance_relative: NonNegative = 0.02
    """The same, relative to z; the larger of the two counts."""


class FuseConfig(StageConfig):
    """Masks of many views to one soft label per point."""

    gate: Literal["uniform", "gated"] = "gated"
    """``uniform``: plain average of views (published baseline); ``gated``: token-for-query."""
    gate_iterations: Count = 10
    """Most rounds of re-centring the query token."""
    gate_floor: Fraction = 0.3
    """Views whose weight is under this share of the largest are dropped."""
    prior: NonNegative = 0.25
    """Lambda of the vote: pulls points few views agree on towards 0."""
    no_seg_weight: NonNegative = 0.2
    """How much a view that answered without [SEG] counts against the points it sees."""
    superpoints: bool = True
    """Average labels inside superpoints, weighted by confidence."""


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
    """Binary cross entropy on confident points."""
    dice: NonNegative = 1.0
    """Dice on confident points of queries that have a target."""
    superpoint: NonNegative = 0.2
    """Spread of predictions inside a superpoint."""
    feature: NonNegative = 0.2
    """One minus cosine between point features and the tokens of queries that claim a point."""
    absent: NonNegative = 0.2
    """Cross entropy of negatives: queries of other scenes, taken to be absent here."""
    positive_weight: Positive = 3.0
    """How much more a positive point counts in the cross entropy."""
    confident: Fraction = 0.1
    """Points with less fusion confidence are left out."""
    hard_labels: bool = True
    """Labels count as 1 from one half on and as 0 below, all confident points alike."""


class StudentConfig(StageConfig):
    """The sparse 3D U-Net and its training."""

    preset: Literal["tiny", "minkunet14", "minkunet34"] = "tiny"
    """Size of the backbone."""
    voxel_size: Annotated[float, Field(ge=0.005, le=0.5)] = 0.1
    """Edge of a voxel, metres; real scans deserve 0.02 to 0.05 and a larger preset."""
    feature_dim: Annotated[int, Field(ge=4, le=1024)] = 64
    """Length of the point features."""
    epochs: Count = 50
    """Passes over the training scenes."""
    batch_scenes: Count = 1
    """Scenes per optimiser step."""
    queries_per_scene: Count = 16
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
    augment: AugmentConfig = AugmentConfig()
    """Augmentation."""
    loss: LossConfig = LossConfig()
    """Loss weights."""


class PredictConfig(StageConfig):
    """Student to masks on the original points."""

    threshold: Fraction = 0.5
    """A point belongs to the mask from this probability on, unless ``adaptive``."""
    superpoints: bool = True
    """Average probabilities inside superpoints first."""
    turns: Annotated[int, Field(ge=1, le=36)] = 4
    """Average over this many turns of the scene about the vertical axis."""
    adaptive: bool = True
    """Per query the threshold whose mask has the largest expected Dice overlap."""
    presence: Fraction = 0.3
    """With ``adaptive``: queries no point of which reaches this probability have no object."""


class JudgeConfig(StageConfig):
    """The teacher's masks against ground truth, in 2D."""

    stride: Annotated[int, Field(ge=1, le=64)] = 2
    """Image pixels per cell at which ground truth is rendered and masks are compared."""


class EvaluateConfig(StageConfig):
    """Metrics; of conventions nothing is to choose: both published ones are always reported."""

    lifted_threshold: Fraction = 0.5
    """A point belongs to the answer of the lifted labels alone from this label on."""


class ReportConfig(StageConfig):
    """The page of results."""

    max_pictures: Annotated[int, Field(ge=0, le=100_000)] = 500
    """Queries shown with pictures, at most."""
    picture_width: Annotated[int, Field(ge=64, le=2048)] = 320
    """Width of each picture, pixels."""


class Experiment(StageConfig):
    """All stages' configs: what ``--config`` and ``--overrides`` may set."""

    generate: GenerateConfig = GenerateConfig()
    """Demo rooms."""
    prepare: PrepareConfig = PrepareConfig()
    """Scan to scene."""
    prompts: PromptsConfig = PromptsConfig()
    """Query files."""
    link: LinkConfig = LinkConfig()
    """Points to pixels."""
    teacher: TeacherConfig = TeacherConfig()
    """2D teacher."""
    fuse: FuseConfig = FuseConfig()
    """Masks to labels."""
    student: StudentConfig = StudentConfig()
    """Sparse U-Net."""
    predict: PredictConfig = PredictConfig()
    """Student to masks."""
    judge: JudgeConfig = JudgeConfig()
    """Teacher in 2D."""
    evaluate: EvaluateConfig = EvaluateConfig()
    """Metrics."""
    report: ReportConfig = ReportConfig()
    """Page of results."""
