"""Stages that ask a teacher outside a run: queries on one picture, and the conformance test.

They read no labels. The outputs are the teacher's text, [SEG] embeddings and masks, as arrays and
as a picture.
"""

from __future__ import annotations

import io
import textwrap
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError

from data.errors import DataError, UserError
from data.types import Array
from models.teacher import ConformanceError, check_teacher
from stages.network_configs import TeacherConfig
from stages.teacher.make_teacher import in_one_line, make_custom

if TYPE_CHECKING:
    from models.lisa.teacher import FullAnswer, LisaTeacher


class Outcome(NamedTuple):
    """Result of a conformance test: ``fault`` describes the violation, "" if there is none.

    ``summary`` counts answers, pictures and masks of a passed test.
    """

    fault: str
    summary: str


def run_check(
    cfg: TeacherConfig,
    images: Sequence[Array],
    queries: Sequence[str],
    device: str,
    tolerance: float,
) -> Outcome:
    """Test the class of ``cfg`` on ``images`` (H, W, 3) uint8, or on two synthetic pictures.

    Raises UserError when the class cannot be instantiated.
    """
    images = images or synthetic_pictures()
    try:
        passed = check_teacher(lambda: make_custom(cfg, device), images, queries, None, tolerance)
    except ConformanceError as error:
        return Outcome(str(error), "")
    except UserError:
        raise
    except Exception as error:  # noqa: B902 - the user's code may raise anything
        return Outcome(f"it raises {in_one_line(error)}", "")
    counts = (
        f"{passed.num_answers} answers on {len(images)} pictures, "
        f"{passed.num_with_masks} with masks"
    )
    if not passed.num_with_masks:
        counts += "; no mask was seen, give pictures and queries that call for one"
    return Outcome("", counts)


def synthetic_pictures() -> list[Array]:
    """Draw a wide and a tall picture of coloured rectangles, (H, W, 3) uint8 each."""
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


_COLORS = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (240, 228, 66))
"""Colours of Okabe and Ito for the successive [SEG]s of an answer, RGB."""
_TINT = 0.55
_PANEL = (360, 800)
"""Smallest and largest width of a panel, pixels."""
_MARGIN, _LINE = 12, 20


def run(image: Array, queries: Sequence[str], teacher: LisaTeacher) -> list[FullAnswer]:
    """Answer each query on ``image`` (H, W, 3) uint8 RGB to the end of its text."""
    view = teacher.encode_view(image, "picture")
    return teacher.answers_in_full(view, list(queries))


def read_picture(path: Path) -> Array:
    """Read a picture as (H, W, 3) uint8 RGB, rotated as its EXIF tag says.

    Raises DataError for a missing or damaged file, or one without 8 bits a channel.
    """
    expected = "a picture of 8 bits a channel, such as a PNG or JPEG"
    remedy = "Give another picture, or convert this one."
    try:
        with Image.open(path) as image:
            mode = image.mode
            if mode.startswith(("I", "F")):
                raise DataError(path, expected, f"one of mode {mode!r}", remedy)
            return np.array(ImageOps.exif_transpose(image).convert("RGB"))
    except FileNotFoundError:
        raise DataError(path, expected, "no such file", remedy) from None
    except (UnidentifiedImageError, Image.DecompressionBombError) as error:
        found = "no picture" if isinstance(error, UnidentifiedImageError) else str(error)
        raise DataError(path, expected, found, remedy) from error
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError(path, expected, f"one that cannot be read ({error})", remedy) from error


def arrays(answers: Sequence[FullAnswer]) -> dict[str, Array]:
    """Return the answers as named arrays; those of query i are named ``<name>_<i>``.

    ``answer`` is text; ``output_ids`` (T,) int64 holds prompt and answer, -200 at the image. With
    n the number of [SEG]s, the float32 arrays are ``seg_embedding`` (n, C), ``low_res_masks``
    (n, 1, h, w), ``iou`` (n, 1) and ``mask_logits`` (n, H, W) at the picture's size.
    """
    named: dict[str, Array] = {}
    for index, answer in enumerate(answers):
        named[f"answer_{index}"] = np.array(answer.text)
        named[f"output_ids_{index}"] = np.asarray(answer.output_ids, np.int64)
        for name in ("seg_embedding", "low_res_masks", "iou", "mask_logits"):
            named[f"{name}_{index}"] = np.asarray(getattr(answer, name), np.float32)
    return named


def draw(image: Array, queries: Sequence[str], answers: Sequence[FullAnswer]) -> Image.Image:
    """Draw one panel per query: the query, the answer, and ``image`` with tinted masks."""
    panels = [
        _panel(query, answer.text, tint(image, np.asarray(answer.mask_logits) > 0))
        for query, answer in zip(queries, answers, strict=True)
    ]
    canvas = Image.new("RGB", (panels[0].width, sum(panel.height for panel in panels)), "white")
    top = 0
    for panel in panels:
        canvas.paste(panel, (0, top))
        top += panel.height
    return canvas


def tint(image: Array, masks: Array) -> Array:
    """Tint ``image`` (H, W, 3) uint8 inside each of ``masks`` (n, H, W) bool, a colour a mask."""
    picture = image.astype(np.float32)
    for index, mask in enumerate(masks):
        color = np.array(_COLORS[index % len(_COLORS)], np.float32)
        picture[mask] = (1 - _TINT) * picture[mask] + _TINT * color
    return np.rint(picture).astype(np.uint8)


def _panel(query: str, answer: str, picture: Array) -> Image.Image:
    """Draw query and answer above the picture, which is resized to a width between the limits."""
    width = min(max(picture.shape[1], _PANEL[0]), _PANEL[1])
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    shown = Image.fromarray(picture).resize((width, height), Image.Resampling.BILINEAR)
    bold, plain = ImageFont.load_default(16), ImageFont.load_default(14)
    lines = [(line, bold, (20, 20, 20)) for line in _wrapped(query, width / 8.4)]
    lines += [(line, plain, (80, 80, 80)) for line in _wrapped(answer, width / 7.4)]
    top = _MARGIN + _LINE * len(lines) + 4
    panel = Image.new("RGB", (width + 2 * _MARGIN, top + height + _MARGIN), "white")
    pen = ImageDraw.Draw(panel)
    for row, (line, font, color) in enumerate(lines):
        pen.text((_MARGIN, _MARGIN + row * _LINE), line, fill=color, font=font)
    panel.paste(shown, (_MARGIN, top))
    return panel


def _wrapped(text: str, characters: float) -> list[str]:
    """Wrap text at ``characters``, without the accents that Pillow's font lacks."""
    letters = unicodedata.normalize("NFKD", text)
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter))
    return textwrap.wrap(plain, max(10, int(characters))) or [""]


def png(picture: Image.Image) -> bytes:
    """Encode a picture as PNG."""
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def npz(named: dict[str, Array]) -> bytes:
    """Encode named arrays as a compressed .npz."""
    stream = io.BytesIO()
    np.savez_compressed(stream, **named)  # type: ignore[arg-type]
    return stream.getvalue()
