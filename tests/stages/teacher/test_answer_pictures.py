"""Pictures in, arrays and pictures of answers out: the work of ``try_teacher`` around LISA."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.errors import DataError
from data.types import Array
from stages.teacher.try_teacher import arrays, draw, npz, read_picture, tint


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_pictures_of_any_8_bit_kind_are_read(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    Image.fromarray(np.full((5, 7, 3), 255, np.uint8)).convert(mode).save(path)
    image = read_picture(path)
    assert image.shape == (5, 7, 3) and image.dtype == np.uint8 and (image > 250).all()


def test_a_photograph_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "a.jpg", exif=turned)
    assert read_picture(tmp_path / "a.jpg").shape == (8, 4, 3)
    with pytest.raises(DataError):
        read_picture(tmp_path / "b.jpg")


def answer(text: str, masks: Array) -> Any:
    num_seg, height, width = masks.shape
    return SimpleNamespace(
        text=text,
        output_ids=np.array([1, -200, 2]),
        seg_embedding=np.zeros((num_seg, 4)),
        low_res_masks=np.zeros((num_seg, 1, 8, 8)),
        iou=np.zeros((num_seg, 1)),
        mask_logits=np.where(masks, 1.0, -1.0),
    )


def test_arrays_keep_their_shapes_without_any_seg_too(tmp_path: Path) -> None:
    answers = [answer("no é", np.zeros((0, 3, 5), bool)), answer("[SEG]", np.ones((2, 3, 5), bool))]
    (tmp_path / "a.npz").write_bytes(npz(arrays(answers)))
    read = np.load(tmp_path / "a.npz")
    assert str(read["answer_0"]) == "no é"
    shapes = {name: read[f"{name}_0"].shape for name in ("seg_embedding", "low_res_masks", "iou")}
    assert shapes == {"seg_embedding": (0, 4), "low_res_masks": (0, 1, 8, 8), "iou": (0, 1)}
    assert read["mask_logits_0"].shape == (0, 3, 5) and read["mask_logits_1"].shape == (2, 3, 5)
    assert read["output_ids_1"].tolist() == [1, -200, 2]


def test_masks_are_tinted_in_colours_of_their_own() -> None:
    image = np.full((2, 3, 3), 100, np.uint8)
    masks = np.zeros((2, 2, 3), bool)
    masks[0, 0, 0] = masks[1, 1, 1] = True
    shown = tint(image, masks)
    assert (shown[~masks.any(axis=0)] == 100).all()
    assert len({tuple(shown[0, 0]), tuple(shown[1, 1]), (100, 100, 100)}) == 3
    assert (image == 100).all()


def test_the_picture_holds_a_panel_per_query_and_long_answers_in_full() -> None:
    image, nothing = np.zeros((30, 40, 3), np.uint8), np.zeros((0, 30, 40), bool)
    short = draw(image, ["a"], [answer("b", nothing)])
    long = draw(image, ["a"], [answer("word " * 200, nothing)])
    two = draw(image, ["a", "a"], [answer("b", nothing)] * 2)
    assert long.height > short.height + 300 and two.height == 2 * short.height
