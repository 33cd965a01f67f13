"""What the student learns from of one scene, small enough to keep: its superpoints' labels.

Nothing here holds ground truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from data.artifacts.features import LiftedFeatures
from data.artifacts.pseudo import PseudoLabels
from data.neighbours import neighbours_of
from data.types import Array, Prompt, Scene, View
from data.voxels import mean_by_group

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
    image_features: LiftedFeatures | None = None


@dataclass(frozen=True, eq=False)
class QueryViews:
    """What the views of Q queries say: inputs of ``models.fusion.ViewFusion``.

    ``tokens`` (Q, V, T) f4, ``weights`` (Q, V) f4 rows of sum 1 or 0, ``beliefs`` (Q, V) f4,
    ``poses`` (V, 6) f4: camera centre, metres from the middle of the floor, and viewing
    direction, both in the scene's frame.
    """

    tokens: Array
    weights: Array
    beliefs: Array
    poses: Array

    def of(self, queries: Array) -> QueryViews:
        """Those of some queries."""
        return QueryViews(
            self.tokens[queries], self.weights[queries], self.beliefs[queries], self.poses
        )


@dataclass(frozen=True, eq=False)
class CompactScene:
    """What training needs of a scene: its queries with a token, its superpoints' labels.

    ``points`` (N, 3) f4 m with the floor at z = 0, ``colors`` (N, 3) u1, ``normals`` (N, 3)
    f4, ``superpoint_ids`` (N,) i4, 0..S-1; ``soft`` and ``confidence`` (Q, S) f4, means over
    each superpoint's points; ``thresholds`` (Q,) f4, above 1 for a query without object;
    ``tokens`` (Q, T) f4 unit; ``views`` of the queries; ``sided`` (Q,) bool: the query speaks
    of left or right; ``pairs`` (P, 2) i4 of touching superpoints with ``affinity`` (P,) f4;
    ``image`` (S, C) f4: unit image features, zero rows where no view saw; None without.
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
        """Memory of the arrays."""
        parts = [getattr(self, name) for name in self.__dataclass_fields__]
        parts += [getattr(self.views, name) for name in self.views.__dataclass_fields__]
        return sum(array.nbytes for array in parts if isinstance(array, np.ndarray))


def depends_on_side(text: str) -> bool:
    """Whether a query's answer changes in the mirror: it says left, right, clockwise, ..."""
    return _SIDES.search(text) is not None


def floor_height(points: Array) -> float:
    """Height of the floor, metres: the first percentile of z, so that stray points don't count."""
    return float(np.percentile(points[:, 2], 1))


def compact(scene: TrainingScene) -> CompactScene:
    """Keep the queries that have a token and a point of which something is known.

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
    """(num, C) f4 unit features, 0 where unseen; ValueError for another number of superpoints."""
    if lifted is None:
        return None
    if len(lifted.seen) != num:
        raise ValueError(f"{lifted.scene_id}: features of {len(lifted.seen)} superpoints of {num}")
    return unit_rows(lifted.features)


def query_views(labels: PseudoLabels, scene: Scene) -> QueryViews:
    """What fusion kept of the views of a scene's queries."""
    by_id = {view.view_id: view for view in scene.views}
    poses = [_pose(by_id[name]) for name in labels.view_ids]
    middle = np.append(scene.cloud.points[:, :2].mean(0), floor_height(scene.cloud.points))
    rows = np.array(poses, np.float32).reshape(-1, 6)
    rows[:, :3] -= middle.astype(np.float32)
    return QueryViews(labels.view_tokens, labels.view_weights, labels.view_beliefs, rows)


def _pose(view: View) -> Array:
    return np.concatenate([view.camera_center, view.world_to_camera[2, :3]])


def unit_rows(tokens: Array) -> Array:
    """Rows of (Q, T) scaled to unit length, f4."""
    lengths = np.linalg.norm(tokens, axis=1, keepdims=True)
    return np.asarray(tokens / np.maximum(lengths, 1e-12), np.float32)


def token_bank(tokens: Iterable[Array], seed: int) -> Array:
    """(B, T): all scenes' tokens, or 4096 of them drawn with ``seed`` where there are more."""
    bank = np.concatenate(list(tokens))
    if len(bank) > _MAX_BANK:
        keep = np.random.default_rng(seed).choice(len(bank), _MAX_BANK, replace=False)
        bank = bank[np.sort(keep)]
    return bank


def foreign_rows(bank: Array, tokens: Array, cosine: float) -> Array:
    """(K,) rows of the bank whose cosine to every one of a scene's tokens is below ``cosine``."""
    return np.flatnonzero((bank @ tokens.T).max(1, initial=-1) < cosine)
