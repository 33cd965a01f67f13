"""Stage: make a GIF animation of queries: the sentence, the teacher's masks, the answer in 3D.

The stage reads no label: it chooses queries by the student's scores.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from data.artifacts.soft_masks import Predictions, PseudoLabels
from data.artifacts.teacher import MASK, TeacherCache
from data.types import Array, Prompt, Scene
from stages.report.pictures import FAINT, INK, best_viewpoint, font, over, paint, wrapped
from stages.report.scan_renderer import render_orbit, render_upper_corners
from stages.scene.view_images import mask_of, read_image

SIZE = (800, 460)
"""Width and height of the animation, pixels."""
_MARGIN, _HEAD, _MOST_VIEWS = 16, 56, 3
_VIEW = (176, 117)
_SCAN = (SIZE[0] - 3 * _MARGIN - _VIEW[0], SIZE[1] - _HEAD - 34)
STEPS = 18
"""Pictures in which a scan turns."""
_TURN, _GLOW_STEPS = 1.6, 4
"""Angle that a scan turns, radians; pictures in which the answer lights up."""
_STEP_MS, _ASK_MS, _LOOK_MS, _LAST_MS = 110, 1300, 900, 1700
_COLORS = 224
_GLOW = (213, 94, 0)
"""Okabe and Ito's vermilion."""


@dataclass(frozen=True)
class Candidate:
    """A query that may be shown, with the student's score and the points of its answer."""

    prompt: Prompt
    score: float
    points: int


@dataclass(frozen=True, eq=False)
class AnimatedQuery:
    """A query with its scene, the teacher's answers, the lifted labels and the predictions."""

    scene: Scene
    prompt: Prompt
    cache: TeacherCache
    labels: PseudoLabels
    predictions: Predictions


def candidates(prompts: Sequence[Prompt], predictions: Predictions) -> list[Candidate]:
    """Return the queries of one scene that the student answered with a non-empty mask."""
    rows = [predictions.prompt_ids.index(prompt.prompt_id) for prompt in prompts]
    sizes, scores = predictions.masks.sum(axis=1), predictions.presence("student")
    all_candidates = (Candidate(p, float(scores[k]), int(sizes[k])) for p, k in zip(prompts, rows))
    return [candidate for candidate in all_candidates if candidate.points]


def choose(pool: Iterable[Candidate], count: int) -> list[Prompt]:
    """Choose at most ``count`` queries: implicit ones first, then by score, over many scenes.

    Each query comes from the scene with the fewest queries chosen before it. Of queries with the
    same sentence one is chosen.
    """
    ranked = sorted(
        pool,
        key=lambda candidate: (
            candidate.prompt.task != "implicit",
            -candidate.score,
            candidate.prompt.prompt_id,
        ),
    )
    chosen: list[Prompt] = []
    while len(chosen) < count:
        texts = {prompt.text for prompt in chosen}
        remaining = [candidate.prompt for candidate in ranked if candidate.prompt.text not in texts]
        if not remaining:
            break
        scenes_chosen = [prompt.scene_id for prompt in chosen]
        chosen.append(min(remaining, key=lambda prompt: scenes_chosen.count(prompt.scene_id)))
    return chosen


def run(queries: Iterable[AnimatedQuery]) -> bytes:
    """Return a GIF of ``SIZE`` that shows the queries in turn and repeats without end.

    The same queries give the same bytes. Raises ValueError for no query and for a scene without
    triangles, DataError for an image that cannot be read.
    """
    frames = [frame for query in queries for frame in _frames(query)]
    if not frames:
        raise ValueError("nothing to show")
    palette = _palette([image for image, _ in frames])
    paged = [_paged(image, palette) for image, _ in frames]
    stream = io.BytesIO()
    durations = [duration for _, duration in frames]
    paged[0].save(stream, "GIF", save_all=True, append_images=paged[1:], duration=durations, loop=0)
    return stream.getvalue()


def _palette(frames: Sequence[Image.Image]) -> Image.Image:
    """Make one palette for all frames, which avoids flicker; its last colour is white.

    The palette is made from every fifth frame and the last. A colour counts by the square root
    of its pixels, because the pale scan is large and would take the colours of the images.
    """
    sampled = [*frames[::5], frames[-1]]
    pixels = np.concatenate([np.asarray(frame).reshape(-1, 3) for frame in sampled])
    # Colours as numbers, which are sorted much faster than rows and in the same order.
    numbers = (pixels // 4 * 4).astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    unique_numbers, counts = np.unique(numbers, return_counts=True)
    unique_colors = (unique_numbers[:, None] >> np.array([16, 8, 0], np.uint32)).astype(np.uint8)
    counted = np.repeat(unique_colors + 2, np.sqrt(counts).astype(int), axis=0)
    page = Image.fromarray(counted[None]).quantize(_COLORS, Image.Quantize.MEDIANCUT)
    colors = np.full((_COLORS + 1, 3), 255, np.uint8)
    median_colors = np.array(page.getpalette(), np.uint8).reshape(-1, 3)[:_COLORS]
    colors[: len(median_colors)] = median_colors
    page.putpalette(colors.tobytes())
    return page


def _paged(frame: Image.Image, palette: Image.Image) -> Image.Image:
    """Convert a frame to the palette. White is set apart: Pillow maps it to a near white."""
    page = frame.quantize(palette=palette, dither=Image.Dither.NONE)
    white = Image.fromarray((np.asarray(frame) == 255).all(axis=2))
    page.paste(_COLORS, (0, 0), white)
    return page


def _frames(query: AnimatedQuery) -> Iterator[tuple[Image.Image, int]]:
    """Yield pictures, each with the time that it is shown, in milliseconds."""
    row = query.predictions.prompt_ids.index(query.prompt.prompt_id)
    mask = query.predictions.masks[row]
    score = float(query.predictions.presence("student")[row])
    plain, masked = _views(query)
    base = _page(query.prompt.text, f"student: the answer in 3D, score {score:.2f}")
    for step, (bare, lit) in enumerate(_turning(query.scene, mask)):
        if step == 0:
            yield _with(base, plain, bare), _ASK_MS
            yield _with(base, masked, bare), _LOOK_MS
        scan = Image.blend(bare, lit, min(1.0, (step + 1) / _GLOW_STEPS))
        yield _with(base, masked, scan), _LAST_MS if step == STEPS - 1 else _STEP_MS


def _turning(scene: Scene, mask: Array) -> Iterator[tuple[Image.Image, Image.Image]]:
    """Render the scan without and with the answer, turning around its best viewpoint."""
    viewpoints = render_upper_corners(scene, _SCAN[0] // 4, _SCAN[1] // 4)
    if not viewpoints:
        raise ValueError(f"scene {scene.scene_id} has no triangles to draw")
    best, _ = best_viewpoint(viewpoints, [mask])
    middle = np.pi / 4 + np.pi / 2 * viewpoints.index(best)
    share = np.linspace(0, 1, STEPS)
    eased = share * share * (3 - 2 * share) - 0.5  # Starts and stops gently.
    for viewpoint in render_orbit(scene, [float(a) for a in middle + _TURN * eased], *_SCAN):
        lit = paint(viewpoint, mask, np.zeros_like(mask), _GLOW)
        yield _on_white(viewpoint.picture), _on_white(lit)


def _on_white(picture: Array) -> Image.Image:
    image, page = Image.fromarray(picture), Image.new("RGB", _SCAN, "white")
    page.paste(image, (0, 0), image)
    return page


def _views(query: AnimatedQuery) -> tuple[list[Image.Image], list[Image.Image]]:
    """Draw the views of largest weight, without and with the teacher's masks."""
    column = query.cache.prompt_ids.index(query.prompt.prompt_id)
    weights = query.labels.view_weights[query.labels.prompt_ids.index(query.prompt.prompt_id)]
    has_mask = query.cache.status[:, column] == MASK
    ranked = sorted(np.flatnonzero(has_mask).tolist(), key=lambda view: (-weights[view], view))
    plain, masked = [], []
    for view in ranked[:_MOST_VIEWS]:
        image = read_image(query.scene.views[view])
        size = (image.shape[0], image.shape[1])
        plain.append(_small(image))
        mask = mask_of(query.cache, view, column, size)
        masked.append(_small(over(_faded(image), mask, _GLOW)))
    return plain, masked


def _faded(picture: Array) -> Array:
    """Make a picture as pale as a rendered scan, so that tinted pixels stand out."""
    gray = picture @ np.array([0.299, 0.587, 0.114])
    return np.asarray(np.rint(0.25 * picture + 0.4 * gray[..., None] + 0.35 * 255), np.uint8)


def _small(picture: Array) -> Image.Image:
    """Crop the middle of a picture to the shape of ``_VIEW`` and resize it."""
    height, width = picture.shape[:2]
    wide, tall = min(width, height * _VIEW[0] / _VIEW[1]), min(height, width * _VIEW[1] / _VIEW[0])
    box = ((width - wide) / 2, (height - tall) / 2, (width + wide) / 2, (height + tall) / 2)
    return Image.fromarray(picture).resize(_VIEW, Image.Resampling.LANCZOS, box)


def _page(sentence: str, caption: str) -> Image.Image:
    """Draw the parts that all pictures of a query share: its sentence and the captions."""
    page = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(page)
    line = " ".join(wrapped(sentence, 24, SIZE[0] - 2 * _MARGIN, 1))
    pen.text((_MARGIN, 14), line, fill=INK, font=font(24))
    foot = SIZE[1] - 26
    pen.text((_MARGIN, foot), "teacher: masks in pictures", fill=FAINT, font=font(14))
    pen.text((2 * _MARGIN + _VIEW[0], foot), caption, fill=FAINT, font=font(14))
    return page


def _with(base: Image.Image, views: Sequence[Image.Image], scan: Image.Image) -> Image.Image:
    page = base.copy()
    for number, view in enumerate(views):
        page.paste(view, (_MARGIN, _HEAD + number * (_VIEW[1] + 8)))
    page.paste(scan, (2 * _MARGIN + _VIEW[0], _HEAD))
    return page
