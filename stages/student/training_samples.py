"""Training samples: augmented, voxelised scenes with superpoint labels and drawn queries.

No ground truth is read. The random numbers of a sample depend on (seed, epoch, number of the
scene) alone, so a resumed run draws the same samples as an uninterrupted run.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.artifacts.embeddings import LiftedFeatures
from data.artifacts.soft_masks import PseudoLabels
from data.geometry.meshes import floor_height
from data.geometry.superpoints import neighbours_of
from data.geometry.voxels import mean_by_group, voxelise
from data.types import Array, Prompt, Scene, View

_MAX_BANK = 4096
_SIDES = re.compile(
    r"(?<![a-z])(?:left|right)(?:most|wards?|hand|handed)?(?![a-z])|clockwise|o'clock",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class TrainingScene:
    """One training scene; ``prompts`` are those of ``labels.prompt_ids``."""

    scene: Scene
    prompts: Sequence[Prompt]
    labels: PseudoLabels
    image_features: LiftedFeatures | None = None


@dataclass(frozen=True, eq=False)
class QueryViews:
    """The views of Q queries, inputs of ``models.student.ViewFusion``.

    ``tokens`` (Q, V, T) f4 are [SEG] embeddings; ``weights`` (Q, V) f4 have rows of sum 1 or 0;
    ``confidence`` (Q, V) f4 is presence times predicted IoU; ``poses`` (V, 6) f4 are camera
    centre, metres from the centre of the floor, and viewing direction, in the scene's frame.
    """

    tokens: Array
    weights: Array
    confidence: Array
    poses: Array

    def of(self, queries: Array) -> QueryViews:
        """Select the views of the queries with indices ``queries``."""
        return QueryViews(
            self.tokens[queries], self.weights[queries], self.confidence[queries], self.poses
        )


@dataclass(frozen=True, eq=False)
class CompactScene:
    """The data of a scene for training: its cloud, superpoint labels and queries with a token.

    ``points`` (N, 3) f4 m with the floor at z = 0, ``colors`` (N, 3) u1, ``normals`` (N, 3)
    f4, ``superpoint_ids`` (N,) i4, 0..S-1; ``soft`` and ``confidence`` (Q, S) f4, means over
    each superpoint's points; ``thresholds`` (Q,) f4, above 1 for a query without object;
    ``tokens`` (Q, T) f4 unit; ``views`` of the queries; ``sided`` (Q,) bool, true for queries
    about left or right; ``pairs`` (P, 2) i4 of adjacent superpoints with ``affinity`` (P,) f4;
    ``image`` (S, C) f4, unit image features with zero rows for unseen superpoints, or None.
    """

    scene_id: str
    points: Array
    colors: Array
    normals: Array
    superpoint_ids: Array
    soft: Array
    confidence: Array
    thresholds: Array
    tokens: Array
    views: QueryViews
    sided: Array
    pairs: Array
    affinity: Array
    image: Array | None = None

    @property
    def num_bytes(self) -> int:
        """Size of the arrays in bytes."""
        parts = [getattr(self, name) for name in self.__dataclass_fields__]
        parts += [getattr(self.views, name) for name in self.views.__dataclass_fields__]
        return sum(array.nbytes for array in parts if isinstance(array, np.ndarray))


def depends_on_side(text: str) -> bool:
    """Whether mirroring changes a query's answer: its text has left, right, clockwise, ..."""
    return _SIDES.search(text) is not None


def compact(scene: TrainingScene) -> CompactScene:
    """Average labels over superpoints; keep the queries with a token and a labelled point.

    Raises:
        ValueError: the labels are of another scene, or a prompt is missing.
    """
    labels, cloud = scene.labels, scene.scene.cloud
    texts = {prompt.prompt_id: prompt.text for prompt in scene.prompts}
    missing = [name for name in labels.prompt_ids if name not in texts]
    if missing or labels.soft.shape[1] != len(cloud):
        raise ValueError(
            f"{scene.scene.scene_id}: labels of {labels.scene_id} for {labels.soft.shape[1]} "
            f"points do not fit {len(cloud)} points; prompts without words: {missing[:3]}"
        )
    kept = np.flatnonzero((labels.query_tokens != 0).any(1) & (labels.confidence > 0).any(1))
    ids = scene.scene.superpoint_ids
    num = int(ids.max(initial=-1)) + 1
    near = neighbours_of(scene.scene)
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    return CompactScene(
        scene.scene.scene_id,
        points.astype(np.float32),
        cloud.colors,
        cloud.normals,
        ids,
        np.ascontiguousarray(mean_by_group(labels.soft[kept].T, ids, num).T),
        np.ascontiguousarray(mean_by_group(labels.confidence[kept].T, ids, num).T),
        labels.thresholds[kept],
        unit_rows(labels.query_tokens[kept]),
        query_views(labels, scene.scene).of(kept),
        np.array([depends_on_side(texts[labels.prompt_ids[k]]) for k in kept], bool),
        near.pairs,
        near.affinity,
        image_rows(scene.image_features, num),
    )


def image_rows(lifted: LiftedFeatures | None, num: int) -> Array | None:
    """Return (num, C) f4 unit features, 0 where unseen; ValueError unless there are ``num``."""
    if lifted is None:
        return None
    if len(lifted.seen) != num:
        raise ValueError(f"{lifted.scene_id}: features of {len(lifted.seen)} superpoints of {num}")
    return unit_rows(lifted.features)


def query_views(labels: PseudoLabels, scene: Scene) -> QueryViews:
    """Return the embeddings, weights, confidence and poses of the views of a scene's queries."""
    by_id = {view.view_id: view for view in scene.views}
    poses = [_pose(by_id[name]) for name in labels.view_ids]
    middle = np.append(scene.cloud.points[:, :2].mean(0), floor_height(scene.cloud.points))
    rows = np.array(poses, np.float32).reshape(-1, 6)
    rows[:, :3] -= middle.astype(np.float32)
    return QueryViews(labels.view_tokens, labels.view_weights, labels.view_confidences, rows)


def _pose(view: View) -> Array:
    return np.concatenate([view.camera_center, view.world_to_camera[2, :3]])


def unit_rows(tokens: Array) -> Array:
    """Scale the rows of (Q, T) to unit length, f4."""
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, 1e-12), np.float32)


def token_bank(tokens: Iterable[Array], seed: int) -> Array:
    """Return the tokens of all scenes (B, T), at most 4096, drawn with ``seed``."""
    bank = np.concatenate(list(tokens))
    if len(bank) > _MAX_BANK:
        keep = np.random.default_rng(seed).choice(len(bank), _MAX_BANK, replace=False)
        bank = bank[np.sort(keep)]
    return bank


def foreign_rows(bank: Array, tokens: Array, cosine: float) -> Array:
    """Return the rows (K,) of the bank whose cosine with each of ``tokens`` is below ``cosine``."""
    return np.flatnonzero((bank @ tokens.T).max(1, initial=-1) < cosine)


NUM_CHANNELS = 7


@dataclass(frozen=True)
class Augmentation:
    """Augmentation of a scene; see ``stages.network_configs.AugmentConfig``."""

    rotate: bool = True
    mirror: bool = True
    scale: float = 0.1
    color: float = 0.05


@dataclass(frozen=True)
class SampleSettings:
    """Settings of samples; see ``stages.network_configs.StudentConfig``."""

    voxel_size: float
    queries: int
    negatives: int
    augmentation: Augmentation


class Parts(NamedTuple):
    """P pairs of a voxel and a superpoint that share points.

    ``voxel`` and ``superpoint`` are (P,) int64. ``share`` (P,) float32 is the share of the
    superpoint's points in the voxel, the voxel's weight in the superpoint's mean.
    """

    voxel: Array
    superpoint: Array
    share: Array


@dataclass(frozen=True, eq=False)
class Inputs:
    """Inputs of the network for one scene; see ``voxel_inputs``."""

    features: Array
    grid_coords: Array
    point_to_voxel: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented scene with M voxels, S superpoints, Q queries and K negatives.

    ``features`` (M, 7) f4 and ``grid_coords`` (M, 3) i4 are made by ``voxel_inputs``; ``parts``
    pair voxels and superpoints; ``sizes`` (S,) f4 are numbers of points; ``soft`` and
    ``confidence`` (Q, S) f4, ``thresholds`` (Q,) f4, ``tokens`` (Q, T) f4 and ``views`` are of
    the queries; ``negatives`` (K, T) f4 are tokens of queries assumed to be absent; ``pairs``
    (P, 2) i8 are adjacent superpoints with ``affinity`` (P,) f4; ``image`` (S, C) f4 are unit
    image features with zero rows for unseen superpoints, or None.
    """

    features: Array
    grid_coords: Array
    parts: Parts
    sizes: Array
    soft: Array
    confidence: Array
    thresholds: Array
    tokens: Array
    views: QueryViews
    negatives: Array
    pairs: Array
    affinity: Array
    image: Array | None = None


def sample_generator(seed: int, epoch: int, scene_index: int) -> np.random.Generator:
    """Make the random generator of one sample, independent of other samples."""
    # Counted from 1, because SeedSequence treats a missing last number (``scene_order``) as 0.
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, scene_index + 1]))


def scene_order(seed: int, epoch: int, num_scenes: int) -> Array:
    """Return the order (num_scenes,) of the scenes in one epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(num_scenes)


def voxel_inputs(points: Array, colors: Array, normals: Array, voxel_size: float) -> Inputs:
    """Voxelise a cloud whose floor is at z = 0 and average its inputs per voxel.

    Args:
        points: (N, 3) f4, metres.
        colors: (N, 3) floating point or u1, 0..255.
        normals: (N, 3) f4, unit.
        voxel_size: metres.

    Returns:
        ``features`` (M, 7) f4: colour in -1..1, height above the floor in metres minus 1,
        normal; ``grid_coords`` (M, 3) i4; ``point_to_voxel`` (N,) i8.
    """
    voxels = voxelise(points, voxel_size)
    rows = np.empty((len(points), NUM_CHANNELS), np.float32)
    rows[:, :3] = colors / np.float32(127.5) - 1
    rows[:, 3] = points[:, 2] - 1
    rows[:, 4:] = normals
    features = mean_by_group(rows, voxels.point_to_voxel, len(voxels.grid_coords))
    return Inputs(features, voxels.grid_coords, voxels.point_to_voxel)


def find_parts(point_to_voxel: Array, superpoint_ids: Array) -> Parts:
    """List the pairs of voxel and superpoint that share a point; both inputs are (N,)."""
    num_voxels = int(point_to_voxel.max(initial=-1)) + 1
    keys = superpoint_ids.astype(np.int64) * num_voxels + point_to_voxel
    keys, counts = np.unique(keys, return_counts=True)
    superpoint, voxel = np.divmod(keys, max(num_voxels, 1))
    share = counts / np.bincount(superpoint_ids)[superpoint]
    return Parts(voxel, superpoint, share.astype(np.float32))


def draw_sample(
    scene: CompactScene, foreign: Array, settings: SampleSettings, rng: np.random.Generator
) -> Sample:
    """Draw one training sample of a scene.

    Args:
        scene: a scene with at least one query.
        foreign: (K, T) candidates for negatives, see ``foreign_rows``.
        settings: numbers of queries and negatives, voxel size, augmentation.
        rng: see ``sample_generator``.
    """
    count = min(settings.queries, len(scene.tokens))
    queries = np.sort(rng.choice(len(scene.tokens), count, replace=False))
    count = min(settings.negatives, len(foreign))
    negatives = foreign[rng.choice(len(foreign), count, replace=False)]
    points, colors, normals = augment(
        scene, settings.augmentation, bool(scene.sided[queries].any()), rng
    )
    inputs = voxel_inputs(points, colors, normals, settings.voxel_size)
    return Sample(
        inputs.features,
        inputs.grid_coords,
        find_parts(inputs.point_to_voxel, scene.superpoint_ids),
        np.bincount(scene.superpoint_ids).astype(np.float32),
        scene.soft[queries],
        scene.confidence[queries],
        scene.thresholds[queries],
        scene.tokens[queries],
        scene.views.of(queries),
        negatives,
        scene.pairs.astype(np.int64),
        scene.affinity,
        scene.image,
    )


def augment(
    scene: CompactScene, how: Augmentation, sided: bool, rng: np.random.Generator
) -> tuple[Array, Array, Array]:
    """Augment a scene: points (N, 3) f4 m, colours (N, 3) f4 0..255 and normals (N, 3) f4.

    The number of draws from ``rng`` does not depend on ``how``. A scene is not mirrored if
    ``sided``, that is if a drawn query is about left or right.
    """
    angle, mirror, scale, shift = rng.uniform([0, 0, -1, -1], [2 * np.pi, 1, 1, 1])
    turn = np.eye(3)
    if how.rotate:
        c, s = np.cos(angle), np.sin(angle)
        turn[:2, :2] = [[c, -s], [s, c]]
    if how.mirror and not sided and mirror < 0.5:
        turn = turn @ np.diag([-1.0, 1.0, 1.0])
    turn = turn.T.astype(np.float32)
    points = _turned(scene.points, turn * np.float32(1 + how.scale * scale))
    colors = np.clip(scene.colors + np.float32(255 * how.color * shift), 0, 255)
    return points, colors, _turned(scene.normals, turn)


def _turned(vectors: Array, matrix: Array) -> Array:
    """Multiply rows (N, 3) f4 by a matrix (3, 3).

    BLAS is not used, because its threads spin after a product and so occupy the training's cores.
    """
    x, y, z = vectors.T
    turned = np.empty_like(vectors)
    for axis in range(3):
        turned[:, axis] = x * matrix[0, axis] + y * matrix[1, axis] + z * matrix[2, axis]
    return turned
