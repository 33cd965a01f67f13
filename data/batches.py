"""Training samples: scenes with pseudo-labels, augmented, voxelised and with queries drawn.

Nothing here holds ground truth. What is drawn for a sample depends on (seed, epoch, number of
the scene) alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from data.training_scene import CompactScene, QueryViews
from data.types import Array
from data.voxels import mean_by_group, voxelise

NUM_CHANNELS = 7


@dataclass(frozen=True)
class Augmentation:
    """Changes of a scene that keep its queries true; see ``stages.student_config``."""

    rotate: bool = True
    mirror: bool = True
    scale: float = 0.1
    color: float = 0.05


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn; see ``stages.student_config.StudentConfig``."""

    voxel_size: float
    queries: int
    negatives: int
    augmentation: Augmentation


class Parts(NamedTuple):
    """Where voxels and superpoints meet: P pairs of one of each that share points.

    ``voxel`` and ``superpoint`` (P,) int64; ``share`` (P,) float32 of the superpoint's points,
    so that a superpoint's mean over its points is the sum of its parts' voxels by share.
    """

    voxel: Array
    superpoint: Array
    share: Array


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network sees of a scene; see ``voxel_inputs``."""

    features: Array
    grid_coords: Array
    point_to_voxel: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented scene: M voxels, S superpoints, Q queries, K negatives.

    ``features`` (M, 7) f4 and ``grid_coords`` (M, 3) i4 as ``voxel_inputs`` gives; ``parts``
    of the S superpoints, whose numbers of points are ``sizes`` (S,) f4; ``soft`` and
    ``confidence`` (Q, S) f4, ``thresholds`` (Q,) f4, ``tokens`` (Q, T) f4 and ``views`` of the
    queries; ``negatives`` (K, T) f4: tokens of queries whose object is taken to be absent;
    ``pairs`` (P, 2) i8 of touching superpoints with ``affinity`` (P,) f4; ``image`` (S, C) f4
    unit image features with zero rows where unseen, or None.
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
    """The random numbers of one sample, whatever was drawn before it."""
    # From 1: to SeedSequence a missing last number is a 0, which ``scene_order`` has.
    return np.random.default_rng(np.random.SeedSequence([seed, epoch, scene_index + 1]))


def scene_order(seed: int, epoch: int, num_scenes: int) -> Array:
    """(num_scenes,) the order of the scenes in one epoch."""
    return np.random.default_rng(np.random.SeedSequence([seed, epoch])).permutation(num_scenes)


def voxel_inputs(points: Array, colors: Array, normals: Array, voxel_size: float) -> Inputs:
    """Voxelise a cloud whose floor is at z = 0 and average its inputs in each voxel.

    Args:
        points: (N, 3) f4, metres.
        colors: (N, 3) floating point or u1, 0..255.
        normals: (N, 3) f4, unit.
        voxel_size: metres.

    Returns:
        ``features`` (M, 7) f4: colour in -1..1, height above the floor in metres less 1,
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
    """The pairs of voxel and superpoint that share a point; both (N,), superpoints 0..S-1."""
    num_voxels = int(point_to_voxel.max(initial=-1)) + 1
    keys = superpoint_ids.astype(np.int64) * num_voxels + point_to_voxel
    keys, counts = np.unique(keys, return_counts=True)
    superpoint, voxel = np.divmod(keys, max(num_voxels, 1))
    share = counts / np.bincount(superpoint_ids)[superpoint]
    return Parts(voxel, superpoint, share.astype(np.float32))


def draw_sample(
    scene: CompactScene, foreign: Array, settings: SampleSettings, rng: np.random.Generator
) -> Sample:
    """One training sample of a scene.

    Args:
        scene: at least one query.
        foreign: (K, T) candidates for negatives, see ``foreign_rows``.
        settings: how many queries and negatives, voxel size, augmentation.
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
    """Points (N, 3) f4 m, colours (N, 3) f4 0..255 and normals (N, 3) f4 of a changed scene.

    The number of draws from ``rng`` is the same whatever ``how`` says. ``sided`` scenes (a
    drawn query speaks of left or right) are never mirrored.
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
    """(N, 3) f4 rows times a matrix (3, 3).

    Not by BLAS, whose threads wait for more work at full speed and so take the training's cores.
    """
    x, y, z = vectors.T
    turned = np.empty_like(vectors)
    for axis in range(3):
        turned[:, axis] = x * matrix[0, axis] + y * matrix[1, axis] + z * matrix[2, axis]
    return turned
