"""Pixels for CLIP and SAM against golden runs, transformers' own processor and laws."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.sam.image_processing_pil_sam import SamImageProcessorPil

from data.errors import DataError
from models.lisa import images
from models.lisa.images import ClipTransform, resized_size, sam_pixels

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa"
IMAGES = [("v1", 0), ("v1", 1), ("v1", 2), ("plus", 0), ("plus", 1)]


@cache
def _golden(name: str) -> tuple[dict[str, Any], dict[str, NDArray[np.float32]]]:
    with np.load(GOLDEN / name / "tensors.npz") as file:
        arrays = {key: file[key] for key in file.files if key.endswith("pixel_values")}
    return json.loads((GOLDEN / name / "golden.json").read_text("utf-8")), arrays


def _image(name: str, index: int) -> NDArray[np.uint8]:
    with Image.open(GOLDEN / name / "images" / f"img{index}.png") as file:
        return np.asarray(file.convert("RGB"))


def _clip(name: str) -> ClipTransform:
    return ClipTransform.from_folder(GOLDEN / name / "clip-vit-tiny")


def _noise(height: int, width: int) -> NDArray[np.uint8]:
    return np.random.default_rng(height).integers(0, 256, (height, width, 3), np.uint8)


def _distance(found: Tensor, golden: NDArray[np.float32]) -> float:
    assert found.dtype == torch.float32
    assert found.shape == golden.shape
    return float(np.abs(found.numpy() - golden).max())


def _resize_by_torch(
    antialias: bool, image: NDArray[np.uint8], size: tuple[int, int], _: int
) -> Any:
    pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float()
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=antialias)
    return resized.round().to(torch.uint8)[0].permute(1, 2, 0).numpy()


# Golden pixels


@pytest.mark.parametrize(("name", "index"), IMAGES)
def test_golden_clip_pixels(name: str, index: int) -> None:
    golden = _golden(name)[1][f"image{index}__clip_pixel_values"]
    assert _clip(name).side == golden.shape[-1]
    assert _distance(_clip(name)(_image(name, index)), golden) <= 1e-6


@pytest.mark.parametrize(("name", "index"), IMAGES)
def test_golden_sam_pixels(name: str, index: int) -> None:
    content, arrays = _golden(name)
    pixels, resized = sam_pixels(_image(name, index), content["sam_image_size"])
    sizes = {tuple(s["resized_size"]) for s in content["samples"] if s["image_index"] == index}
    assert sizes == {resized}
    assert _distance(pixels, arrays[f"image{index}__sam_pixel_values"]) <= 1e-6


@pytest.mark.parametrize(("name", "index"), IMAGES)
def test_squashing_instead_of_the_centre_crop_breaks_them(name: str, index: int) -> None:
    golden = _golden(name)[1][f"image{index}__clip_pixel_values"]
    side = golden.shape[-1]
    squashing = replace(_clip(name), resize_to=(side, side), crop=None)
    assert _distance(squashing(_image(name, index)), golden) > 0.1


@pytest.mark.parametrize(("name", "index"), [("v1", 2), ("plus", 1)])
def test_resizing_without_antialias_breaks_them(
    name: str, index: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the images that shrink; the same resizing with antialias is off by rounding only."""
    content, arrays = _golden(name)
    golden = arrays[f"image{index}__sam_pixel_values"]
    distances = []
    for antialias in (True, False):
        with monkeypatch.context() as patch:
            patch.setattr(images, "_resized", partial(_resize_by_torch, antialias))
            pixels, _ = sam_pixels(_image(name, index), content["sam_image_size"])
        distances.append(_distance(pixels, golden))
    assert distances[0] < 0.04
    assert distances[1] > 0.1


# Other settings: transformers' processors as oracles


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (97, 31), (225, 224), (1, 1), (40, 4)])
@pytest.mark.parametrize(
    "config",
    [
        {},
        {"size": 336, "crop_size": 336},
        {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}},
        {"size": {"shortest_edge": 20}, "crop_size": 33},
        {"size": {"height": 48, "width": 48}, "do_center_crop": False},
        {"size": {"height": 40, "width": 56}, "crop_size": 31, "resample": 2},
        {"do_resize": False, "crop_size": 37},
        {"size": 24, "crop_size": 24, "do_normalize": False, "rescale_factor": 0.5},
        {"size": 24, "crop_size": 24, "do_rescale": False, "image_mean": [1, 2.5, 0]},
        {"size": 24, "crop_size": 24, "image_std": [0.5, 0.5, 0.5], "resample": 1},
    ],
    ids=str,
)
def test_configs_mean_what_transformers_makes_of_them(
    config: dict[str, Any], shape: tuple[int, int], tmp_path: Path
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    image = _noise(*shape)
    found = ClipTransform.from_folder(tmp_path)(image)
    oracle = CLIPImageProcessorPil(**config)(image, input_data_format="channels_last")
    expected = np.asarray(oracle["pixel_values"][0], np.float32)
    scale = max(1.0, float(np.abs(expected).max()))
    assert _distance(found, expected) <= 1e-6 * scale


def test_no_config_means_clip_at_224(tmp_path: Path) -> None:
    assert ClipTransform.from_folder(tmp_path) == ClipTransform() == _clip("v1")
    assert ClipTransform().side == 224


@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), (1440, 1920), (97, 31), (1, 1), (64, 64)]
)
@pytest.mark.parametrize("size", [64, 192])
def test_sam_pixels_are_those_of_transformers(height: int, width: int, size: int) -> None:
    image = _noise(height, width)
    oracle = SamImageProcessorPil(
        size={"longest_edge": size}, pad_size={"height": size, "width": size}
    )(image, input_data_format="channels_last")
    pixels, resized = sam_pixels(image, size)
    assert resized == tuple(map(int, oracle["reshaped_input_sizes"][0]))
    # The oracle multiplies by 1/255 first, hence the last bit.
    assert _distance(pixels, np.asarray(oracle["pixel_values"][0], np.float32)) <= 2e-6
    assert not pixels[:, resized[0] :].any() and not pixels[:, :, resized[1] :].any()


@given(st.integers(1, 5000), st.integers(1, 5000), st.sampled_from([96, 192, 1024]))
def test_the_longer_side_fills_sams_square(height: int, width: int, size: int) -> None:
    resized = resized_size(height, width, size)
    assert max(resized) == size and min(resized) >= 1
    assert resized_size(width, height, size) == resized[::-1]
    exact = min(height, width) * size / max(height, width)
    assert abs(min(resized) - exact) <= max(0.5, 1 - exact) + 1e-9


def test_a_read_only_or_strided_image_is_fine() -> None:
    image = _noise(50, 70)
    mirrored = image[:, ::-1]
    mirrored.setflags(write=False)
    copy = mirrored.copy()
    torch.testing.assert_close(ClipTransform()(mirrored), ClipTransform()(copy))
    torch.testing.assert_close(sam_pixels(mirrored, 64)[0], sam_pixels(copy, 64)[0])


@pytest.mark.parametrize(
    "image",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32)]
    + [np.zeros((0, 4, 3), np.uint8)],
    ids=["grey", "alpha", "float", "empty"],
)
def test_what_is_no_image_is_refused(image: Any) -> None:
    for make in (ClipTransform(), lambda pixels: sam_pixels(pixels, 64)):
        with pytest.raises(ValueError, match=r"must be \(H, W, 3\) uint8"):
            make(image)


def test_a_transform_that_makes_no_square_is_refused() -> None:
    with pytest.raises(ValueError, match="makes no square"):
        ClipTransform(crop=None)(_noise(8, 9))


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"size": "224"}', '{"size": 0}', '{"size": {"longest_edge": 9}}']
    + ['{"crop_size": {"height": 4, "width": 5}}', '{"do_center_crop": false}']
    + ['{"do_resize": 1}', '{"resample": 9}', '{"resample": "bicubic"}', '{"image_mean": [1, 2]}']
    + ['{"image_std": [1, 0, 1]}', '{"rescale_factor": "x"}', '{"image_mean": ["1", 2, 3]}'],
)
def test_a_damaged_config_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "preprocessor_config.json"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        ClipTransform.from_folder(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: expected ") and ", found " in message
    assert message.endswith("as transformers expects it.")
