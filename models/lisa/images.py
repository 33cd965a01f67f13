"""Preprocess images for CLIP and SAM, and decode SAM's masks for [SEG] states.

Both towers get the 8-bit image resized by PIL with antialiasing, as in the published code: for
CLIP bicubic and cropped at the centre (a wide image loses its sides), for SAM bilinear and padded
on the right and at the bottom. All sizes are (height, width) in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from data.errors import DataError
from data.jsonio import is_int, read_json
from models.lisa.generation import Decoded, mask_parts
from models.lisa.network import LisaNetwork

Image8 = NDArray[np.uint8]
Size = tuple[int, int]
Triple = tuple[float, float, float]

_SAM_MEAN = (123.675, 116.28, 103.53)
_SAM_STD = (58.395, 57.12, 57.375)


@dataclass(frozen=True)
class ClipTransform:
    """CLIP's image preprocessing; the defaults are those of CLIP at 224 pixels.

    Attributes:
        resize_to: length of the shorter side, or (height, width) regardless of the aspect ratio,
            or None to keep the size.
        crop: side of the centre square, or None; missing pixels are black.
        resample: PIL's number of the resizing filter, 3 for bicubic.
        rescale: factor on 8-bit values, before mean and std.
        mean, std: per channel, for values in [0, 1].
    """

    resize_to: int | Size | None = 224
    crop: int | None = 224
    resample: int = int(Image.Resampling.BICUBIC)
    rescale: float = 1 / 255
    mean: Triple = (0.48145466, 0.4578275, 0.40821073)
    std: Triple = (0.26862954, 0.26130258, 0.27577711)

    @classmethod
    def from_folder(cls, folder: Path) -> ClipTransform:
        """Read ``preprocessor_config.json`` of a CLIP folder; CLIP's defaults without the file.

        Raises:
            DataError: the file is damaged, or its settings do not make square images.
        """
        path = folder / "preprocessor_config.json"
        if not path.exists():
            return cls()
        expected = "the JSON object of a CLIP image processor"
        content = read_json(path, expected, _REMEDY)
        if not isinstance(content, dict):
            raise DataError(path, expected, f"a {type(content).__name__}", _REMEDY)
        return _Fields(path, content).transform()

    @property
    def side(self) -> int:
        """Side S of the output square, pixels.

        Raises:
            ValueError: neither cropping nor resizing makes a square.
        """
        if self.crop is not None:
            return self.crop
        if isinstance(self.resize_to, tuple) and self.resize_to[0] == self.resize_to[1]:
            return self.resize_to[0]
        raise ValueError(f"resizing to {self.resize_to} without a crop makes no square")

    def __call__(self, image: Image8) -> Tensor:
        """Transform (H, W, 3) uint8 RGB to (3, S, S) float32."""
        height, width, _ = _checked(image).shape
        resized = _resized(image, self._target(height, width), self.resample)
        square = resized if self.crop is None else _centre(resized, self.crop)
        if square.shape[:2] != (self.side, self.side):
            raise ValueError(f"made {square.shape[:2]}, expected a square of {self.side} pixels")
        scaled = (square * np.float64(self.rescale)).astype(np.float32)
        values = (scaled - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))

    def _target(self, height: int, width: int) -> Size:
        if self.resize_to is None:
            return height, width
        if isinstance(self.resize_to, tuple):
            return self.resize_to
        longer = int(self.resize_to * max(height, width) / min(height, width))
        return (self.resize_to, longer) if height <= width else (longer, self.resize_to)


def resized_size(height: int, width: int, size: int) -> Size:
    """Return the size of an image scaled so that its longer side is ``size``; at least 1 each."""
    scale = size * 1.0 / max(height, width)
    return max(int(height * scale + 0.5), 1), max(int(width * scale + 0.5), 1)


def sam_pixels(image: Image8, size: int) -> tuple[Tensor, Size]:
    """Transform (H, W, 3) uint8 RGB to SAM's input; returns it and the size of the resized image.

    The input is (3, size, size) float32; the padding is 0 after normalisation.
    """
    height, width, _ = _checked(image).shape
    resized = resized_size(height, width, size)
    small = _resized(image, resized, int(Image.Resampling.BILINEAR)).astype(np.float32)
    values = (small - np.array(_SAM_MEAN, np.float32)) / np.array(_SAM_STD, np.float32)
    pixels = torch.zeros(3, size, size)
    pixels[:, : resized[0], : resized[1]] = torch.from_numpy(values).permute(2, 0, 1)
    return pixels, resized


def upsample_masks(low_res: Tensor, sam_size: int, resized: Size, original: Size) -> Tensor:
    """Resize SAM's mask logits (n, h, w) to the image's size, (n, H, W) float32; n may be 0.

    Args:
        low_res: logits over SAM's padded input.
        sam_size: side of that input, pixels.
        resized: size of the image inside the input, as returned by ``sam_pixels``.
        original: (H, W) of the image.
    """
    if not len(low_res):
        return low_res.new_zeros((0, *original), dtype=torch.float32)
    whole = _interpolated(low_res.float(), (sam_size, sam_size))
    return _interpolated(whole[:, : resized[0], : resized[1]], original)


def _interpolated(masks: Tensor, size: Size) -> Tensor:
    return F.interpolate(masks[:, None], size, mode="bilinear", align_corners=False)[:, 0]


def _checked(image: Image8) -> Image8:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise ValueError(
            f"an image must be (H, W, 3) uint8 with pixels, got {image.shape} {image.dtype}"
        )
    return image


def _resized(image: Image8, size: Size, resample: int) -> Image8:
    picture = Image.fromarray(np.ascontiguousarray(image))
    return np.asarray(picture.resize((size[1], size[0]), Image.Resampling(resample)))


def _centre(image: Image8, side: int) -> Image8:
    """Crop the central square; as in transformers, an odd border is larger after the centre."""
    height, width = image.shape[:2]
    pad_top, pad_left = (max(side - extent + 1, 0) // 2 for extent in (height, width))
    canvas = np.zeros((max(side, height), max(side, width), 3), np.uint8)
    canvas[pad_top : pad_top + height, pad_left : pad_left + width] = image
    top, left = ((extent - side) // 2 for extent in canvas.shape[:2])
    return canvas[top : top + side, left : left + side]


_REMEDY = "Fetch the CLIP folder again, or correct this file as transformers expects it."


@dataclass(frozen=True)
class _Fields:
    """Reader of the fields of ``preprocessor_config.json``; absent or null means the default."""

    path: Path
    content: dict[str, Any]

    def transform(self) -> ClipTransform:
        default = ClipTransform()
        identity = not self._flag("do_normalize")
        transform = ClipTransform(
            resize_to=self._resize() if self._flag("do_resize") else None,
            crop=self._crop() if self._flag("do_center_crop") else None,
            resample=self._resample(),
            rescale=self._rescale(default.rescale) if self._flag("do_rescale") else 1.0,
            mean=(0.0, 0.0, 0.0) if identity else self._triple("image_mean", default.mean),
            std=(1.0, 1.0, 1.0) if identity else self._triple("image_std", default.std),
        )
        try:
            _ = transform.side
        except ValueError as error:
            raise self._error("settings that make square images", str(error)) from None
        return transform

    def _get(self, key: str, default: Any) -> Any:
        value = self.content.get(key)
        return default if value is None else value

    def _error(self, expected: str, found: Any) -> DataError:
        shown = found if isinstance(found, str) else repr(found)
        return DataError(self.path, expected, shown[:120], _REMEDY)

    def _flag(self, key: str) -> bool:
        value = self._get(key, True)
        if not isinstance(value, bool):
            raise self._error(f"{key}: true or false", value)
        return value

    def _sides(self, key: str) -> int | Size:
        """Read a length or (height, width).

        Accepts 224, [h, w], {"shortest_edge": 224} and {"height": h, "width": w}.
        """
        value = self._get(key, 224)
        if isinstance(value, dict):
            keys = {name for name, length in value.items() if length is not None}
            if keys == {"shortest_edge"}:
                value = value["shortest_edge"]
            elif keys == {"height", "width"}:
                value = [value["height"], value["width"]]
        lengths = value if isinstance(value, list) and len(value) == 2 else [value]
        if not all(is_int(length) and length > 0 for length in lengths):
            raise self._error(f"{key}: a length, shortest_edge, or height and width", value)
        return (lengths[0], lengths[1]) if len(lengths) == 2 else int(lengths[0])

    def _resize(self) -> int | Size:
        return self._sides("size")

    def _crop(self) -> int:
        sides = self._sides("crop_size")
        if isinstance(sides, int):
            return sides
        if sides[0] != sides[1]:
            raise self._error("crop_size: a square", f"{sides[0]} x {sides[1]}")
        return sides[0]

    def _resample(self) -> int:
        value = self._get("resample", int(Image.Resampling.BICUBIC))
        if not is_int(value) or value not in set(map(int, Image.Resampling)):
            raise self._error("resample: one of PIL's filters, 0 to 5", value)
        return int(value)

    def _rescale(self, default: float) -> float:
        value = self._get("rescale_factor", default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self._error("rescale_factor: a number", value)
        return float(value)

    def _triple(self, key: str, default: Triple) -> Triple:
        value = self._get(key, default)
        numbers = isinstance(value, list | tuple) and len(value) == 3
        if not numbers or not all(type(number) in (int, float) for number in value):
            raise self._error(f"{key}: three numbers", value)
        if key == "image_std" and not all(number > 0 for number in value):
            raise self._error(f"{key}: three positive numbers", value)
        return float(value[0]), float(value[1]), float(value[2])


CELLS_PER_EMBEDDING = 4
"""Mask cells per side of one cell of SAM's image embedding."""


@dataclass(frozen=True, eq=False)
class SegMasks:
    """Masks of one answer with n [SEG]s, float32 on the CPU, in the order of the answer.

    ``embeddings`` (n, C); ``logits`` (n, h, w) on SAM's grid; ``iou`` (n,) predicted by SAM.
    """

    embeddings: Tensor
    logits: Tensor
    iou: Tensor


def grid_side(network: LisaNetwork) -> int:
    """Return the number of cells per side of SAM's masks."""
    return CELLS_PER_EMBEDDING * network.config.sam_grid


def seg_embeddings(network: LisaNetwork, states: Sequence[Tensor]) -> Tensor:
    """Project n states (hidden,) to [SEG] embeddings (n, C), the prompts of SAM's decoder."""
    weight = next(network.seg_head.parameters())
    if not states:
        return torch.zeros(0, network.config.embedding_dim, device=weight.device)
    embeddings: Tensor = network.seg_head(torch.stack(list(states)).to(weight.dtype))
    return embeddings


def decode_seg_masks(
    network: LisaNetwork, sam_embedding: Tensor, decoded: Sequence[Decoded], best_of_three: bool
) -> list[SegMasks]:
    """Decode the masks of all [SEG]s of several answers on one view; one entry per answer.

    ``sam_embedding`` (1, C, g, g) is the view's image embedding.
    """
    states = [answer.seg_states for answer in decoded]
    return _decode_states(network, sam_embedding, states, best_of_three)


def decode_withheld_masks(
    network: LisaNetwork, sam_embedding: Tensor, decoded: Sequence[Decoded], best_of_three: bool
) -> list[SegMasks]:
    """Decode masks like ``decode_seg_masks``, and one withheld mask per answer without [SEG].

    A withheld mask is decoded from the state at which [SEG] was most likely.
    """
    states = [
        answer.seg_states or ([] if answer.nearest is None else [answer.nearest])
        for answer in decoded
    ]
    return _decode_states(network, sam_embedding, states, best_of_three)


def _decode_states(
    network: LisaNetwork,
    sam_embedding: Tensor,
    states_by_answer: Sequence[Sequence[Tensor]],
    best_of_three: bool,
) -> list[SegMasks]:
    states = [state for of_answer in states_by_answer for state in of_answer]
    counts = [len(of_answer) for of_answer in states_by_answer]
    side = grid_side(network)
    embeddings = seg_embeddings(network, states)
    logits, iou = torch.zeros(0, side, side), torch.zeros(0)
    if states:
        parts = [
            network.decode_masks(sam_embedding, part[None], best_of_three)
            for part in torch.tensor_split(embeddings, mask_parts(len(states), embeddings.device))
        ]
        logits = torch.cat([part[0][0] for part in parts])
        iou = torch.cat([part[1][0] for part in parts])
    per_answer = (torch.split(t.float().cpu(), counts) for t in (embeddings, logits, iou))
    return [SegMasks(*parts) for parts in zip(*per_answer, strict=True)]
