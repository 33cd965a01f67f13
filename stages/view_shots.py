"""The teacher's views of a query: which counted, which did not and why, and small pictures.

Of the views that fusion kept, the heaviest are shown, and beside them some that it dropped: first
those whose mask the teacher believed most, for they are where the gate mattered.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from scipy.ndimage import binary_erosion

from data.artifacts.pseudo import PseudoLabels
from data.artifacts.teacher import FAILED, MASK, TeacherCache
from data.errors import DataError
from data.mask_grid import cells_to_pixels
from data.types import Array, Scene
from stages.configs import ReportConfig
from stages.pictures import webp_uri
from stages.view_images import read_image

TINT = (204, 121, 167)
"""Okabe and Ito's reddish purple: what a mask is shown in where nothing is said to be true."""
_SHARE = 0.5


@dataclass(frozen=True)
class ViewShot:
    """One view of one query.

    ``weight`` is its share of the fused label, 0 for a view that was dropped, and ``reason`` why;
    ``answer`` are the teacher's words; ``mask`` tells whether one is drawn: "said", "held back"
    or "". ``picture`` is a WebP, empty where the image cannot be read (``missing``) or where the
    page has no room for it.
    """

    view_id: str
    weight: float
    reason: str
    answer: str
    mask: str
    picture: bytes = b""
    missing: bool = False

    @property
    def uri(self) -> str:
        """The picture for a page that loads nothing; empty where there is none."""
        return webp_uri(self.picture) if self.picture else ""


@dataclass(frozen=True)
class Shots:
    """The views shown of a query, and how many were kept of how many."""

    views: tuple[ViewShot, ...]
    num_kept: int
    num_views: int


def view_shots(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    prompt_ids: Sequence[str],
    cfg: ReportConfig,
) -> dict[str, Shots]:
    """Shots by prompt id, of the queries that the teacher was asked of this scene.

    Every view's image and masks are read once, whatever the number of queries it is shown for.
    """
    asked = [name for name in prompt_ids if name in labels.prompt_ids]
    chosen = {name: _chosen(labels, labels.prompt_ids.index(name), cfg) for name in asked}
    told: dict[tuple[str, int], ViewShot] = {}
    for view in sorted({view for views in chosen.values() for view in views}):
        names = [name for name in asked if view in chosen[name]]
        told |= {(n, view): shot for n, shot in _shots(scene, teacher, labels, names, view, cfg)}
    kept = np.count_nonzero(labels.view_weights > 0, axis=1)
    return {
        name: Shots(
            tuple(told[name, view] for view in chosen[name]),
            int(kept[labels.prompt_ids.index(name)]),
            len(labels.view_ids),
        )
        for name in asked
    }


def _chosen(labels: PseudoLabels, query: int, cfg: ReportConfig) -> list[int]:
    """Views of a query to show: kept ones by weight, then dropped ones by belief."""
    weights, beliefs = labels.view_weights[query], labels.view_beliefs[query]
    by_weight = np.argsort(-weights, kind="stable")
    kept = [int(view) for view in by_weight if weights[view] > 0][: cfg.views]
    by_belief = np.argsort(-beliefs, kind="stable")
    dropped = [int(view) for view in by_belief if weights[view] == 0][: cfg.dropped_views]
    return kept + dropped


def _shots(
    scene: Scene,
    teacher: TeacherCache,
    labels: PseudoLabels,
    names: Sequence[str],
    view: int,
    cfg: ReportConfig,
) -> list[tuple[str, ViewShot]]:
    """What one view has to show of several queries."""
    view_id = labels.view_ids[view]
    column = teacher.view_ids.index(view_id)
    image = _small(scene, view_id, cfg.view_width)
    logits = teacher.mask_logits(column)
    shots = []
    for name in names:
        query, row = teacher.prompt_ids.index(name), labels.prompt_ids.index(name)
        drawn = bool(teacher.drawn[column, query])
        said = teacher.status[column, query] == MASK
        answer = teacher.answers[column][query]
        failed = teacher.status[column, query] == FAILED
        shot = ViewShot(
            view_id,
            float(labels.view_weights[row, view]),
            labels.drop_reasons[row][view],
            f"failed: {answer}" if failed else answer,
            ("said" if said else "held back") if drawn else "",
            missing=image is None,
        )
        if image is not None:
            mask = None
            if drawn:
                extent = (float(teacher.mask_extent[0]), float(teacher.mask_extent[1]))
                mask = cells_to_pixels(logits[query : query + 1], extent, image.shape[:2])[0] > 0
            shot = replace(shot, picture=_webp(_overlaid(image, mask)))
        shots.append((name, shot))
    return shots


def _small(scene: Scene, view_id: str, width: int) -> Array | None:
    """A view's image, (h, width, 3) uint8; None where it cannot be read, as after a move."""
    view = next(view for view in scene.views if view.view_id == view_id)
    try:
        image = Image.fromarray(read_image(view))
    except DataError:
        return None
    height = max(1, round(image.height * width / image.width))
    return np.asarray(image.resize((width, height), Image.Resampling.LANCZOS))


def _overlaid(image: Array, mask: Array | None) -> Array:
    """The image with a mask tinted and outlined, so that it shows on any colour."""
    if mask is None or not mask.any():
        return image
    picture = image.astype(np.float32)
    picture[mask] = (1 - _SHARE) * picture[mask] + _SHARE * np.array(TINT, np.float32)
    picture[mask & ~binary_erosion(mask)] = TINT
    return np.rint(picture).astype(np.uint8)


def _webp(picture: Array) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "WEBP", quality=60, method=4)
    return stream.getvalue()


def within_budget(shots: Mapping[str, Shots], most: float) -> dict[str, Shots]:
    """The same with at most ``most`` bytes of pictures: the first of each query, then the second.

    Views whose picture there is no room for keep their words.
    """
    left = most
    kept: set[tuple[str, int]] = set()
    for rank in range(max((len(one.views) for one in shots.values()), default=0)):
        for name, one in shots.items():
            size = len(one.views[rank].picture) if rank < len(one.views) else 0
            if 0 < size <= left:
                left -= size
                kept.add((name, rank))
    return {
        name: replace(
            one,
            views=tuple(
                view if (name, rank) in kept else replace(view, picture=b"")
                for rank, view in enumerate(one.views)
            ),
        )
        for name, one in shots.items()
    }
