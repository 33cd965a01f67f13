"""What is written of sentences' answers: masks for a mesh, a picture, and names of files."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import partial

import numpy as np

from data.exports import SceneAnswers
from data.types import Scene
from stages.ask_student import Asked
from stages.dollhouse import draw_below, draw_corners
from stages.pictures import BOTH, Tile, overview, paint
from stages.report_drawing import House, picture_height

_WIDTH = 480
_LONGEST_NAME = 40
_NAMES, _LEGEND = ("answer", "scan"), ((BOTH, "answer"),)


def exported(scene_id: str, answers: Sequence[Asked]) -> SceneAnswers:
    """Answers, at least one, as ``data.exports`` writes them, under names safe for files."""
    return SceneAnswers(
        scene_id,
        tuple(file_stem(asked.text) for asked in answers),
        tuple(asked.text for asked in answers),
        ("query",) * len(answers),
        np.stack([asked.mask for asked in answers]),
        np.array([asked.score for asked in answers], np.float32),
    )


def house_of(scene: Scene) -> House | None:
    """The scan from its corners, for all its sentences; None where it has no triangle to draw."""
    size = _WIDTH, picture_height(_WIDTH)
    corners = draw_corners(scene, *size)
    return House(corners, partial(draw_below, scene, *size)) if corners else None


def picture_of(house: House, asked: Asked) -> bytes:
    """PNG of the answer from the corner that shows most of it, beside the scan without it."""
    corner, note = house.viewpoint([asked.mask])
    told = f"score {asked.score:.2f}   {asked.num_points} points" if asked.num_points else ""
    scores = "   ".join(part for part in (told or "nothing found", note) if part)
    picture = paint(corner, asked.mask, asked.mask, BOTH)
    tile = Tile(in_one_line(asked.text), scores, picture, corner.picture)
    return overview([tile], _NAMES, _LEGEND)


def in_one_line(text: str) -> str:
    """A sentence as a terminal or a caption may show it: no line break, no control character."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def file_stem(text: str) -> str:
    """A name for the files of a sentence: its words in ASCII, and a hash that tells others apart.

    Nothing of it depends on what a file system makes of points, slashes, case or length.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().lower()
    words = "-".join(re.findall(r"[a-z0-9]+", plain))[:_LONGEST_NAME].strip("-")
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{words}-{digest}" if words else digest
