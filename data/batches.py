"""Training samples: scenes with pseudo-labels, augmented, voxelised and with queries drawn.

Nothing here holds ground truth. What is drawn for a sample depends on (seed, epoch, number of
the scene) alone, so a resumed run sees what an uninterrupted one would have seen.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.pseudo import PseudoLabels
from data.types import Array, Prompt, Scene
from data.voxels import mean_by_group, sum_by_group, voxelise

NUM_CHANNELS = 7
_MAX_BANK = 4096
_SIDES = re.compile(
    r"(?<![a-z])(?:left|right)(?:most|wards?|hand|handed)?(?![a-z])|clockwise|o'clock",
    re.IGNORECASE,
)


@dataclass(frozen=True, eq=False)
class TrainingScene:
    """One scene to learn from; ``prompts`` hold the words of ``labels.prompt_ids``."""

    scene: Scene
    prompts: Sequence[Prompt]
    labels: PseudoLabels


@dataclass(frozen=True)
class Augmentation:
    """Changes of a scene that keep its queries true; see ``stages.configs.AugmentConfig``."""

    rotate: bool = True
    mirror: bool = True
    scale: float = 0.1
    color: float = 0.05


@dataclass(frozen=True)
class SampleSettings:
    """How samples are drawn; see ``stages.configs.StudentConfig``."""

    voxel_size: float
    queries: int
    negatives: int
    augmentation: Augmentation


@dataclass(frozen=True, eq=False)
class CompactScene:
    """What training needs of a scene, small enough to keep: its labelled queries only.

    ``points`` (N, 3) f4 m with the floor at z = 0, ``colors`` (N, 3) u1, ``normals`` (N, 3)
    f4, ``superpoint_ids`` (N,) i4, ``soft`` and ``confidence`` (Q, N) u1 as n / 255,
    ``tokens`` (Q, T) f4 unit, ``sided`` (Q,) bool: the query speaks of left or right.
    """

    scene_id: str
    points: Array
    colors: Array
    normals: Array
    superpoint_ids: Array
    soft: Array
    confidence: Array
    tokens: Array
    sided: Array

    @property
    def num_bytes(self) -> int:
        """Memory of the arrays."""
        arrays = (getattr(self, name) for name in self.__dataclass_fields__)
        return sum(array.nbytes for array in arrays if isinstance(array, np.ndarray))


@dataclass(frozen=True, eq=False)
class Inputs:
    """What the network sees of a scene; see ``voxel_inputs``."""

    features: Array
    grid_coords: Array
    point_to_voxel: Array


@dataclass(frozen=True, eq=False)
class Sample:
    """One augmented scene: M voxels, Q queries, K negatives.

    ``features`` (M, 7) f4 and ``grid_coords`` (M, 3) i4 as ``voxel_inputs`` gives;
    ``superpoint_ids`` (M,) i8 from 0; ``soft`` and ``confidence`` (Q, M) f4; ``tokens``
    (Q, T) f4; ``negatives`` (K, T) f4: tokens of queries whose object is taken to be absent.
    """

    features: Array
    grid_coords: Array
    superpoint_ids: Array
    soft: Array
    confidence: Array
    tokens: Array
    negatives: Array


def depends_on_side(text: str) -> bool:
    """Whether a query's answer changes in the mirror: it says left, right, clockwise, ..."""
    return _SIDES.search(text) is not None


def floor_height(points: Array) -> float:
    """Height of the floor, metres: the first percentile of z, so that stray points don't count."""
    return float(np.percentile(points[:, 2], 1))


def compact(scene: TrainingScene, confident: float) -> CompactScene:
    """Keep the queries that have a token and a point of at least this confidence.

    Raises:
        ValueError: the labels are of another scene, or a query's words are missing.
    """
    labels, cloud = scene.labels, scene.scene.cloud
    texts = {prompt.prompt_id: prompt.text for prompt in scene.prompts}
    missing = [name for name in labels.prompt_ids if name not in texts]
    if missing or labels.soft.shape[1] != len(cloud):
        raise ValueError(
            f"{scene.scene.scene_id}: labels of {labels.scene_id} for {labels.soft.shape[1]} "
            f"points do not fit {len(cloud)} points; prompts without words: {missing[:3]}"
        )
    kept = np.flatnonzero(
        (labels.query_tokens != 0).any(1) & (labels.confidence >= confident).any(1)
    )
    points = cloud.points - np.array([0, 0, floor_height(cloud.points)], np.float32)
    return CompactScene(
        scene.scene.scene_id,
        points.astype(np.float32),
        cloud.colors,
        cloud.normals,
        scene.scene.superpoint_ids,
        np.rint(labels.soft[kept] * 255).astype(np.uint8),
        np.rint(labels.confidence[kept] * 255).astype(np.uint8),
        _unit(labels.query_tokens[kept]),
        np.array([depends_on_side(texts[labels.prompt_ids[k]]) for k in kept], bool),
    )


def _unit(tokens: Array) -> Array:
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, 1e-12), np.float32)


def token_bank(tokens: Iterable[Array], seed: int) -> Array:
    """(B, T): all scenes' tokens, or 4096 of them drawn with ``seed`` where there are more."""
    bank = np.concatenate(list(tokens))
    if len(bank) > _MAX_BANK:
        keep = np.random.default_rng(seed).choice(len(bank), _MAX_BANK, replace=False)
        bank = bank[np.sort(keep)]
    return bank


def foreign_tokens(bank: Array, tokens: Array, cosine: float) -> Array:
    """(K, T): tokens of the bank whose cosine to every one of a scene's is below ``cosine``."""
    return np.asarray(bank[(bank @ tokens.T).max(1, initial=-1) < cosine])


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


def draw_sample(
    scene: CompactScene, foreign: Array, settings: SampleSettings, rng: np.random.Generator
) -> Sample:
    """One training sample of a scene.

    Args:
        scene: at least one query.
        foreign: (K, T) candidates for negatives, see ``foreign_tokens``.
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
    soft, confidence = _voxel_targets(scene, queries, inputs)
    first = np.unique(inputs.point_to_voxel, return_index=True)[1]
    superpoint_ids = np.unique(scene.superpoint_ids[first], return_inverse=True)[1]
    return Sample(
        inputs.features,
        inputs.grid_coords,
        superpoint_ids.astype(np.int64),
        soft,
        confidence,
        scene.tokens[queries],
        negatives,
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
    points = scene.points @ turn * np.float32(1 + how.scale * scale)
    colors = np.clip(scene.colors + np.float32(255 * how.color * shift), 0, 255)
    return points, colors, scene.normals @ turn


def _voxel_targets(scene: CompactScene, queries: Array, inputs: Inputs) -> tuple[Array, Array]:
    """Confidence-weighted mean label and mean confidence, (Q, M) f4 each, of the voxels."""
    num_voxels = len(inputs.grid_coords)
    confidence = scene.confidence[queries].astype(np.float32) / 255
    votes = scene.soft[queries].astype(np.float32) / 255 * confidence
    groups = inputs.point_to_voxel
    total = sum_by_group(confidence.T, groups, num_voxels).T
    soft = sum_by_group(votes.T, groups, num_voxels).T / np.maximum(total, 1e-9)
    counts = np.bincount(groups, minlength=num_voxels)
    return soft.astype(np.float32), (total / counts).astype(np.float32)
