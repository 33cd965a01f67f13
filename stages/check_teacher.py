"""Stage: the conformance test, run on a class of the user's own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from data.errors import UserError
from data.types import Array
from models.conformance import ConformanceError, check_teacher
from stages.teacher_config import TeacherConfig
from stages.teachers import in_one_line, make_custom


class Outcome(NamedTuple):
    """``fault`` says how the protocol is broken; it is empty when it is not."""

    fault: str
    summary: str


def run(
    cfg: TeacherConfig,
    images: Sequence[Array],
    queries: Sequence[str],
    device: str,
    tolerance: float,
) -> Outcome:
    """Test the class of ``cfg`` on ``images`` (H, W, 3) uint8, or on two that are made up.

    UserError when the class cannot be made.
    """
    images = images or made_up_pictures()
    try:
        told = check_teacher(lambda: make_custom(cfg, device), images, queries, None, tolerance)
    except ConformanceError as error:
        return Outcome(str(error), "")
    except UserError:
        raise
    except Exception as error:  # noqa: B902 - the user's code may raise anything
        return Outcome(f"it raises {in_one_line(error)}", "")
    counts = (
        f"{told.num_answers} answers on {len(images)} pictures, {told.num_with_masks} with masks"
    )
    if not told.num_with_masks:
        counts += "; no mask was seen, give pictures and queries that call for one"
    return Outcome("", counts)


def made_up_pictures() -> list[Array]:
    """A wide and a high picture of coloured rectangles, (H, W, 3) uint8."""
    pictures = []
    for seed, (height, width) in enumerate([(120, 160), (128, 96)]):
        rng = np.random.default_rng(seed)
        picture = np.full((height, width, 3), 200, np.uint8)
        for _ in range(6):
            top, left = rng.integers(0, height - 20), rng.integers(0, width - 20)
            tall, wide = rng.integers(15, 60, 2)
            picture[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
        pictures.append(picture)
    return pictures
