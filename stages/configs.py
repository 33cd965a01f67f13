"""Frozen configs, one per stage; a YAML file and ``--overrides`` set their fields.

The configs of teacher, student and text encoder are in ``stages.network_configs``. Configs are
apart from the stages so that planning a run imports no torch. Every field enters the fingerprint
of its stage (weights enter by their content), so device, number of workers and output paths are
not fields. Unknown keys, wrong types and values out of range are refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from data.types import Split
from stages.network_configs import Count
from stages.network_configs import FinetuneConfig as FinetuneConfig
from stages.network_configs import Fraction, NonNegative, Positive, Seed
from stages.network_configs import StageConfig as StageConfig
from stages.network_configs import StudentConfig as StudentConfig
from stages.network_configs import TeacherConfig as TeacherConfig
from stages.network_configs import TextConfig as TextConfig


class GenerateConfig(StageConfig):
    """Generation of procedural rooms in the folder layout of ScanNet++."""

    train_rooms: Annotated[int, Field(ge=0, le=100_000)] = 12
    """Number of training rooms; 0 for a scene set that evaluates students of other sets."""
    val_rooms: Count = 6
    """Number of validation rooms."""
    tune_rooms: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Number of tuning rooms, on which settings are chosen."""
    train_questions: Annotated[int, Field(ge=1, le=20)] = 1
    """Questions per training room, as a multiple of those per room of the other splits; limited
    by the number of different questions. Training questions need no labels."""
    views: Annotated[int, Field(ge=2, le=500)] = 24
    """Images per room."""
    height: Annotated[int, Field(ge=32, le=4096)] = 320
    """Image height, pixels."""
    width: Annotated[int, Field(ge=32, le=4096)] = 480
    """Image width, pixels."""
    vertex_spacing: Annotated[float, Field(ge=0.01, le=0.5)] = 0.05
    """Longest grid edge of the meshes, metres (diagonals are up to 1.42 times longer)."""
    qa_questions: Annotated[int, Field(ge=0, le=20)] = 0
    """Questions per room whose answers are also evaluated as text."""
    rooms_per_place: Annotated[int, Field(ge=0, le=4)] = 0
    """Rooms of a split, each of another kind, that form one home for hierarchical search; 0 for
    no homes."""
    searches: Annotated[int, Field(ge=0, le=20)] = 4
    """Searches per room of a home."""
    room_scale: Annotated[float, Field(ge=0.9, le=2)] = 1.0
    """Scale of the rooms' sides, which are 4 to 7 metres at 1."""
    scan: Literal["clean", "scanned"] = "clean"
    """``clean``: the mesh of each object, exact poses and rendered images. ``scanned``: one mesh,
    fused from noisy depth along a hand-held walk with drifting poses, degraded images, and small
    things that lie about. The following keys apply to ``scanned`` only."""
    sensor: Literal["kinect", "stereo", "lidar"] = "kinect"
    """Depth sensor, of which ``data/rooms/scanning/sensors.py`` states noise and range."""
    scan_views: Annotated[int, Field(ge=2, le=2000)] = 60
    """Depth images per room: those of the images' poses and further ones; at least 40 for a scan
    like a person's."""
    pose_drift: Annotated[float, Field(ge=0, le=0.2)] = 0.008
    """Root mean square of the error of the poses' positions, metres."""
    pose_drift_degrees: Annotated[float, Field(ge=0, le=10)] = 0.3
    """Root mean square of the error of the poses' directions, degrees."""
    clutter: Annotated[int, Field(ge=0, le=200)] = 40
    """Usual number of small things in a room (books, cups, shoes, ...), which no query asks for; a
    room gets half to one and a half times as many, as far as there is a place."""
    voxel: Annotated[float, Field(ge=0.005, le=0.2)] = 0.03
    """Edge of a voxel of depth fusion, metres: about the spacing of the mesh's vertices."""
    seed: Seed = 7
    """Base seed; room i of a split depends on (seed, split, i) only."""

    def rooms(self, split: Split) -> int:
        """Return the number of rooms of a split."""
        return {"train": self.train_rooms, "val": self.val_rooms, "tune": self.tune_rooms}[split]


class PrepareConfig(StageConfig):
    """Conversion of a scan to a scene: cameras, view selection, depth and superpoints."""

    camera: Literal["undistorted", "fisheye", "iphone"] = "undistorted"
    """Images of the scan to use."""
    max_views: Count = 50
    """Most views kept; views are chosen greedily by the number of unseen points each adds."""
    superpoint_threshold: Positive = 0.05
    """Threshold of the graph over-segmentation; a larger value gives larger superpoints."""
    superpoint_min_points: Count = 20
    """Superpoints with fewer points are merged with their closest neighbour."""
    superpoint_color: NonNegative = 0.0
    """Weight of colour in the over-segmentation: of the squared CIELAB difference of a mesh edge's
    ends, whose colours are averaged with their neighbours' twice; 0 for none."""
    superpoint_smoothing: Annotated[int, Field(ge=0, le=20)] = 0
    """Rounds of averaging normals over the mesh before it is cut; a sensor's noise needs one."""


class PromptsConfig(StageConfig):
    """Conversion of query files to prompts, and the meaning of their object ids."""

    bank: list[str] = []
    """Background (distractor) categories that the teacher is asked for in every scene besides
    its queries: a fixed list, taken from no annotation."""
    id_space: Literal["auto", "position", "id", "objectId", "objectId+1"] = "auto"
    """Meaning of object ids in query files. ``auto`` follows the documentation of the format, or,
    where that says nothing, compares names with the scans' labels in each id space."""
    rooms: dict[str, list[str]] = {}
    """Additional kinds of rooms for searches, each with the categories that identify it; see
    ``data/room_words.yaml``."""
    min_agreement: Fraction = 0.8
    """``auto``: smallest share of names that must agree; below it the queries are refused."""

    @field_validator("bank")
    @classmethod
    def _named_once(cls, bank: list[str]) -> list[str]:
        names = [" ".join(category.lower().split()) for category in bank]
        if not all(names):
            raise ValueError("every category needs a name, but one is empty")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"every category once, but {', '.join(twice)} is repeated")
        return bank


class LinkConfig(StageConfig):
    """Links between points and the views that see them."""

    near: Positive = 0.05
    """Smallest depth of a linked point in front of the camera, metres."""
    depth_tolerance: Positive = 0.05
    """Largest difference between a point's depth and the depth map, metres (absolute part)."""
    depth_tolerance_relative: NonNegative = 0.02
    """Largest difference relative to the depth; the larger of both tolerances applies."""
    masks: bool = True
    """Ignore pixels that a mask blanks and pixels outside the lens's image circle."""


class FuseConfig(StageConfig):
    """Fusion of the masks of many views into one soft label per point and query."""

    views: Literal["best", "all", "filtered"] = "filtered"
    """``best``: only the most confident view. ``all``: every view's mask with equal weight,
    withheld masks included (with ``prior`` and ``no_seg_weight`` 0 the published baseline).
    ``filtered``: weights from confidence, token gate and 3D agreement."""
    token_gate: bool = True
    """``filtered``: weigh views by the agreement of their [SEG] embeddings, too."""
    agreement: bool = True
    """``filtered``: weigh views by the agreement of their masks in 3D, too."""
    gate_iterations: Count = 10
    """Most iterations of the token gate."""
    gate_floor: Fraction = 0.3
    """Views whose weight is below this share of the largest weight are dropped."""
    prior: NonNegative = 0.25
    """Weight of a prior vote for 0, in views; it lowers the labels of points with few votes."""
    no_seg_weight: NonNegative = 0.2
    """Weight against the points it sees of a view whose presence ([SEG] probability) is 0."""
    edge_trust: Fraction = 1.0
    """Weight of a view's vote at points within a mask cell of an edge of depth, where a coarse mask
    may cover both sides; 1 for the same weight as elsewhere."""
    trusted_distance: NonNegative = 0.0
    """Distance in metres beyond which the weight of a view's vote falls as 1 / distance; 0 for the
    same weight at any distance."""
    superpoints: bool = True
    """Average labels inside superpoints, weighted by confidence."""
    neighbours: Fraction = 0.7
    """Largest share of a superpoint's label that comes from adjacent superpoints; 0 for none."""
    neighbour_rounds: Count = 5
    """Rounds of diffusion between adjacent superpoints: how many pieces far a label reaches."""
    neighbour_strength: Positive = 0.3
    """Sum of a superpoint's affinities at which its neighbours have half of ``neighbours``."""
    rivals: NonNegative = 1.5
    """Halve a superpoint's label where the claim of a competing background category is this many
    times larger; 0 turns it off."""
    rival_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.4
    """Background categories compete only if the cosine of their token and the query's is lower."""
    threshold: Literal["half", "expected_dice", "otsu"] = "expected_dice"
    """Threshold of the labels: ``half`` is 1/2, ``expected_dice`` the threshold whose mask has the
    largest expected Dice overlap, ``otsu`` the one that parts labels best into high and low."""
    presence: Fraction = 0.15
    """Queries whose largest label is lower have no object."""
    support: Fraction = 0.0
    """An answer that fewer than this share of the views that see it support with their masks, or
    just one of four or more, is no answer; 0 counts no views."""
    relations: bool = True
    """Resolve sentences that relate things, where ``relations.mode`` parses them: their answer is
    what geometry chooses among the instances of the answers to their phrases."""


Weights = dict[str, float]
"""Weight of each feature of an answer in a logistic, and "bias"; see ``stages.certainty``."""

OWN_FEATURES = ("peak", "inside", "doubtful")
LABEL_FEATURES = (*OWN_FEATURES, "support", "views", "trust")
FEATURES: Mapping[str, tuple[str, ...]] = {
    "student": OWN_FEATURES,
    "words": (*OWN_FEATURES, "known"),
    "labels": LABEL_FEATURES,
    "together": (*LABEL_FEATURES, "own_peak", "own_inside", "agreement"),
}
"""Features that may have weights, by whose answer it is."""


class CertaintyConfig(StageConfig):
    """Weights that tell how sure answers are, fitted by ``python -m benchmarks.calibrate``.

    *Presence* is the probability that the object exists, *quality* the expected IoU of the mask if
    it does. An override replaces all weights of a key.
    """

    student_presence: Weights = {"peak": 0.561, "inside": 6.205, "doubtful": 1.196, "bias": -0.293}
    """Of the student, asked by the tokens of views."""
    student_quality: Weights = {"peak": 0.104, "inside": 3.644, "doubtful": -2.237, "bias": -0.642}
    """The same of its masks."""
    words_presence: Weights = {
        "peak": 0.181,
        "inside": 5.265,
        "doubtful": 1.162,
        "known": 0.227,
        "bias": -0.771,
    }
    """Of the student, asked by words alone."""
    words_quality: Weights = {
        "peak": 0.207,
        "inside": 2.169,
        "doubtful": -2.261,
        "known": 0.048,
        "bias": -0.369,
    }
    """The same of its masks."""
    labels_presence: Weights = {
        "peak": 0.143,
        "inside": 1.776,
        "doubtful": 1.282,
        "support": 1.184,
        "views": 0.535,
        "trust": 1.66,
        "bias": -2.132,
    }
    """Of the labels."""
    labels_quality: Weights = {
        "peak": 0.079,
        "inside": 1.528,
        "doubtful": -0.623,
        "support": 0.948,
        "views": 0.032,
        "trust": 1.819,
        "bias": -1.793,
    }
    """The same of their masks."""
    together_presence: Weights = {
        "peak": 0.112,
        "inside": 1.421,
        "doubtful": 1.209,
        "support": 0.852,
        "views": 0.431,
        "trust": 1.276,
        "own_peak": 0.145,
        "own_inside": 0.927,
        "agreement": 1.206,
        "bias": -1.825,
    }
    """Of labels and student together."""
    together_quality: Weights = {
        "peak": 0.053,
        "inside": 1.671,
        "doubtful": -0.227,
        "support": 0.902,
        "views": -0.009,
        "trust": 1.792,
        "own_peak": 0.129,
        "own_inside": -0.594,
        "agreement": 0.508,
        "bias": -1.737,
    }
    """The same of their masks."""

    @model_validator(mode="after")
    def _known_features(self) -> Self:
        for whose, features in FEATURES.items():
            allowed = (*features, "bias")
            for part in ("presence", "quality"):
                for name in getattr(self, f"{whose}_{part}"):
                    if name not in allowed:
                        raise ValueError(
                            f"{whose}_{part}: no feature {name!r}; there are: {', '.join(allowed)}"
                        )
        return self


class PredictConfig(StageConfig):
    """Prediction of masks on the original points by the student."""

    tokens: Literal["views", "text"] = "views"
    """Query tokens: ``views`` fuses the [SEG] embeddings of the scene's views, ``text`` encodes
    the words alone."""
    student: str = ""
    """Scene set or folder whose student answers (a set's student under the same config); empty for
    this set's student. Set by ``EvaluateZeroShot --student-from``."""
    turns: Annotated[int, Field(ge=1, le=36)] = 4
    """Rotations of the scene about the vertical axis over which predictions are averaged."""
    object_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """Adjacent superpoints form one object if the cosine of their features is higher."""
    object_share: Fraction = 0.5
    """Share of a superpoint's score that is the mean score of its object; 0 for none."""
    size_power: Fraction = 0.75
    """``expected_dice``: a superpoint of n points has weight n to this power. Values below 1 give
    large uncertain superpoints less weight against small certain ones."""
    threshold: Literal["half", "expected_dice"] = "expected_dice"
    """Threshold of the scores, as in ``fuse.threshold``."""
    sharpness: NonNegative = 2.5
    """``expected_dice`` of the student alone: exponent of the odds with which probabilities are
    sharpened before the threshold is chosen; 0 leaves them as they are."""
    presence: Fraction = 0.2
    """Student alone, asked by the tokens of views: queries whose largest probability is lower have
    no object."""
    presence_by_words: Fraction = 0.676
    """Student asked by words alone: queries whose presence (``certainty``) is lower have no
    object."""
    student_share: Fraction = 0.25
    """Student combined with labels: the largest exponent of the student's probability in the
    combined one; that of the label is one minus it. Below 1/2, ``object_share`` is lower in
    proportion for the combined one."""
    least_agreement: Fraction = 0.5
    """Mean IoU of the masks of student and labels in a scan up to which the student does not count:
    the scan is unlike those that it learnt from, and the labels are the answer."""
    full_agreement: Fraction = 0.7
    """The agreement from which on it has its whole share; between both the share grows evenly."""
    certainty: CertaintyConfig = CertaintyConfig()
    """How sure answers are; fitted for LISA-nano on generated rooms."""

    @model_validator(mode="after")
    def _agreements_are_ordered(self) -> PredictConfig:
        if self.least_agreement >= self.full_agreement:
            raise ValueError(
                f"predict.least_agreement is {self.least_agreement}, which must be less than "
                f"predict.full_agreement, {self.full_agreement}"
            )
        return self


class RelationsConfig(StageConfig):
    """Sentences that relate things to each other ("the lamp on the nightstand")."""

    mode: Literal["off", "geometry"] = "geometry"
    """By words alone: ``geometry`` parses such a sentence, asks for each thing by itself, and
    chooses among their instances by geometry; ``off`` asks the sentence as it is."""

    @field_validator("mode", mode="before")
    @classmethod
    def _off_is_no_in_yaml(cls, value: Any) -> Any:
        return "off" if value is False else value


class JudgeConfig(StageConfig):
    """Evaluation of the teacher's masks against ground truth in 2D."""

    stride: Annotated[int, Field(ge=1, le=64)] = 2
    """Image pixels per cell of the grid on which ground truth is rendered and masks compared."""


class ReportConfig(StageConfig):
    """The page of results."""

    max_pictures: Annotated[int, Field(ge=0, le=100_000)] = 500
    """Most queries shown with pictures."""
    picture_width: Annotated[int, Field(ge=64, le=2048)] = 320
    """Width of each picture, pixels."""
    points: Annotated[int, Field(ge=0, le=2_000_000)] = 60_000
    """Most points per scene of the 3D view, evenly spread in space; 0 for a page without 3D."""
    views: Annotated[int, Field(ge=0, le=50)] = 4
    """Kept views shown per query: those of the largest weight in fusion."""
    dropped_views: Annotated[int, Field(ge=0, le=50)] = 1
    """Dropped views shown per query: those of the teacher's highest confidence."""
    view_width: Annotated[int, Field(ge=32, le=2048)] = 192
    """Width of the pictures of views, pixels."""
    view_megabytes: NonNegative = 6.0
    """Most megabytes of the page for all pictures of views; if they do not suffice, every query
    gets its first picture before any gets its second."""


class Experiment(StageConfig):
    """Configs of all stages, as ``--config`` and ``--overrides`` set them."""

    generate: GenerateConfig = GenerateConfig()
    """Generation of demo rooms."""
    prepare: PrepareConfig = PrepareConfig()
    """Conversion of scans to scenes."""
    prompts: PromptsConfig = PromptsConfig()
    """Conversion of query files to prompts."""
    link: LinkConfig = LinkConfig()
    """Links between points and pixels."""
    teacher: TeacherConfig = TeacherConfig()
    """The 2D teacher."""
    fuse: FuseConfig = FuseConfig()
    """Fusion of masks into labels."""
    student: StudentConfig = StudentConfig()
    """The sparse 3D U-Net and its training."""
    finetune: FinetuneConfig = FinetuneConfig()
    """Fine-tuning of a student on ground truth."""
    text: TextConfig = TextConfig()
    """Encoding of sentences as query tokens."""
    predict: PredictConfig = PredictConfig()
    """Prediction of masks by the student."""
    relations: RelationsConfig = RelationsConfig()
    """Sentences that relate things to each other."""
    judge: JudgeConfig = JudgeConfig()
    """Evaluation of the teacher in 2D."""
    report: ReportConfig = ReportConfig()
    """The page of results."""
    steps: list[str] = []
    """Import paths of modules that declare further steps; RunAll makes their artifacts, too."""

    @model_validator(mode="after")
    def _one_student(self) -> Experiment:
        if self.finetune.start and self.predict.student:
            raise ValueError(
                "finetune.start and predict.student both choose the student; set only one of them"
            )
        return self
