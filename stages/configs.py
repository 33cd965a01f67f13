"""One frozen config per stage; a YAML file or ``--overrides`` may set nothing else.

They stand together here (those of teacher, student and text encoder in modules of their own),
apart from the stages, so that planning a run reads them without importing torch. Every field
enters the fingerprint of its stage, so device, worker count and output paths have no place here
(a teacher's weights enter by their content). Unknown keys, wrong types and values out of range
are refused.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Procedural rooms in ScanNet++'s layout."""

    train_rooms: Annotated[int, Field(ge=0, le=100_000)] = 12
    """Rooms of the training split; 0 for a set that only other sets' students are asked on."""
    val_rooms: Count = 6
    """Rooms of the validation split."""
    tune_rooms: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Rooms of the tuning split, on which settings are chosen."""
    train_questions: Annotated[int, Field(ge=1, le=20)] = 1
    """How many times as many questions a training room is asked as any other, as far as it has
    different ones: they need no labels, only the teacher's time."""
    views: Annotated[int, Field(ge=2, le=500)] = 24
    """Images per room."""
    height: Annotated[int, Field(ge=32, le=4096)] = 320
    """Image height, pixels."""
    width: Annotated[int, Field(ge=32, le=4096)] = 480
    """Image width, pixels."""
    vertex_spacing: Annotated[float, Field(ge=0.01, le=0.5)] = 0.05
    """Longest grid edge of the meshes, metres (diagonals are up to 1.42 times that)."""
    qa_questions: Annotated[int, Field(ge=0, le=20)] = 0
    """Questions a room is asked whose answers are measured in words, too."""
    rooms_per_place: Annotated[int, Field(ge=0, le=4)] = 0
    """That many rooms of a split, each of another kind, make a home that is searched as a whole;
    0 for none."""
    searches: Annotated[int, Field(ge=0, le=20)] = 4
    """Searches per room of a home."""
    room_scale: Annotated[float, Field(ge=0.9, le=2)] = 1.0
    """Sides of the rooms, as a multiple of the usual 4 to 7 metres."""
    seed: Seed = 7
    """Base seed; room i of a split depends on (seed, split, i) only."""

    def rooms(self, split: Split) -> int:
        """Number of rooms of a split."""
        return {"train": self.train_rooms, "val": self.val_rooms, "tune": self.tune_rooms}[split]


class PrepareConfig(StageConfig):
    """Scan to scene: cameras, view selection, depth and superpoints."""

    camera: Literal["undistorted", "fisheye", "iphone"] = "undistorted"
    """Which images of the scan to use."""
    max_views: Count = 50
    """Views kept, chosen greedily by how many unseen points each adds."""
    superpoint_threshold: Positive = 0.05
    """Graph over-segmentation: a larger value gives larger superpoints."""
    superpoint_min_points: Count = 20
    """Superpoints smaller than this join their closest neighbour."""


class PromptsConfig(StageConfig):
    """Query files to prompts: what their object ids mean."""

    bank: list[str] = []
    """Categories that every scene is asked for besides its queries: a fixed list, the same for
    all scenes, taken from no annotation."""
    id_space: Literal["auto", "position", "id", "objectId", "objectId+1"] = "auto"
    """``auto``: as the format's documentation says; where it does not, names are compared with
    the scans' labels in each space."""
    rooms: dict[str, list[str]] = {}
    """Further kinds of rooms that searches may name, each with what to look for to find it; see
    ``data/room_words.yaml``."""
    min_agreement: Fraction = 0.8
    """``auto``: share of names that must agree; under it the queries are refused."""

    @field_validator("bank")
    @classmethod
    def _named_once(cls, bank: list[str]) -> list[str]:
        names = [" ".join(category.lower().split()) for category in bank]
        if not all(names):
            raise ValueError("every category needs a name")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"every category once, but {', '.join(twice)} comes again")
        return bank


class LinkConfig(StageConfig):
    """Which points a view sees."""

    near: Positive = 0.05
    """Points closer than this to the camera plane are not linked, metres."""
    depth_tolerance: Positive = 0.05
    """Largest difference between a point's z and the depth map, metres (absolute part)."""
    depth_tolerance_relative: NonNegative = 0.02
    """The same, relative to z; the larger of the two counts."""
    masks: bool = True
    """Leave out pixels that a mask blanks and those that the lens never saw."""


class FuseConfig(StageConfig):
    """Masks of many views to one soft label per point."""

    views: Literal["best", "all", "filtered"] = "filtered"
    """``best``: the one view believed most; ``all``: every view's mask alike, also those that
    were held back (with ``prior`` and ``no_seg_weight`` 0 the published baseline); ``filtered``:
    by belief, see the stage."""
    token_gate: bool = True
    """``filtered``: weigh views also by how well their [SEG] token agrees with the others'."""
    agreement: bool = True
    """``filtered``: weigh views also by how well their mask agrees with the others' in 3D."""
    gate_iterations: Count = 10
    """Most rounds of re-centring the query token."""
    gate_floor: Fraction = 0.3
    """Views whose weight is under this share of the largest are dropped."""
    prior: NonNegative = 0.25
    """Lambda of the vote: pulls points few views agree on towards 0."""
    no_seg_weight: NonNegative = 0.2
    """How much a view that surely had said [SEG] nowhere counts against the points it sees."""
    superpoints: bool = True
    """Average labels inside superpoints, weighted by confidence."""
    neighbours: Fraction = 0.7
    """Largest share of a superpoint's label that comes from those it touches; 0 for none."""
    rivals: NonNegative = 1.5
    """Superpoints that a rival category of the bank claims this much more are halved; 0: none."""
    rival_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.4
    """Categories of the bank whose token is closer than this to the query's are no rivals."""
    threshold: Literal["half", "expected_dice"] = "expected_dice"
    """Where a label counts as part of the answer: from 1/2 on, or from where the answer's
    expected overlap is largest."""
    presence: Fraction = 0.15
    """Queries no point of which reaches this label have no object."""


class PredictConfig(StageConfig):
    """Student to masks on the original points."""

    tokens: Literal["views", "text"] = "views"
    """Who asks: the fused [SEG] token of the scene's views, or the words alone (``text``)."""
    student: str = ""
    """Whose student answers: another scene set's (under the same config) or that of a folder;
    empty for this set's own. Set by ``EvaluateZeroShot --student-from``."""
    turns: Annotated[int, Field(ge=1, le=36)] = 4
    """Average over this many turns of the scene about the vertical axis."""
    object_cosine: Annotated[float, Field(ge=-1, le=1)] = 0.8
    """Superpoints that touch and whose features are more alike than this are one object."""
    object_share: Fraction = 0.5
    """How much of a superpoint's answer is that of its object; 0 for none."""
    size_power: Fraction = 0.75
    """``expected_dice``: a superpoint of n points counts n to this power. Below 1, a large one
    that is doubtful weighs less against small ones that are sure."""
    threshold: Literal["half", "expected_dice"] = "expected_dice"
    """As in fusion."""
    sharpness: NonNegative = 2.5
    """``expected_dice``, the student's own answer: how much like things are drawn apart before the
    threshold is chosen, see ``stages.fusion.thresholds.sharpen``; 0 for not at all."""
    presence: Fraction = 0.2
    """The student's own answer: queries no point of which reaches this have no object."""
    presence_together: Fraction = 0.3
    """The same of student and labels together."""


class JudgeConfig(StageConfig):
    """The teacher's masks against ground truth, in 2D."""

    stride: Annotated[int, Field(ge=1, le=64)] = 2
    """Image pixels per cell at which ground truth is rendered and masks are compared."""


class ReportConfig(StageConfig):
    """The page of results."""

    max_pictures: Annotated[int, Field(ge=0, le=100_000)] = 500
    """Queries shown with pictures, at most."""
    picture_width: Annotated[int, Field(ge=64, le=2048)] = 320
    """Width of each picture, pixels."""
    points: Annotated[int, Field(ge=0, le=2_000_000)] = 60_000
    """Points of a scene in 3D, at most, evenly spread in space; 0 for a page without 3D."""
    views: Annotated[int, Field(ge=0, le=50)] = 4
    """Views of the teacher shown of a query, of those that fusion kept: the heaviest."""
    dropped_views: Annotated[int, Field(ge=0, le=50)] = 1
    """The same of those it dropped: the ones the teacher believed most."""
    view_width: Annotated[int, Field(ge=32, le=2048)] = 192
    """Width of their pictures, pixels."""
    view_megabytes: NonNegative = 6.0
    """What these pictures may take of the page, all together: where that is too little, every
    query has its first before any has its second."""


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
    finetune: FinetuneConfig = FinetuneConfig()
    """A student trained further on truth."""
    text: TextConfig = TextConfig()
    """Sentences to tokens."""
    predict: PredictConfig = PredictConfig()
    """Student to masks."""
    judge: JudgeConfig = JudgeConfig()
    """Teacher in 2D."""
    report: ReportConfig = ReportConfig()
    """Page of results."""
    steps: list[str] = []
    """Modules that declare further steps, each by its import path; RunAll makes their artifacts,
    too."""

    @model_validator(mode="after")
    def _one_student(self) -> Experiment:
        if self.finetune.start and self.predict.student:
            raise ValueError(
                "finetune.start and predict.student both say whose student answers; give one"
            )
        return self
