"""Teacher cache: one PNG per mask, one folder per view: 1 bit for a mask, 8 for its logits."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.types import Array


def write_masks(folder: Path, views: Iterable[Array]) -> None:
    """Write the masks (Q, h, w) of each view: bool in 1 bit a cell, uint8 in 8."""
    for view, masks in enumerate(views):
        place = folder / f"view{view:04d}"
        place.mkdir(parents=True)
        for query, mask in enumerate(masks):
            Image.fromarray(mask).save(place / f"{query:04d}.png")


def read_masks(folder: Path) -> Iterator[Array]:
    """Masks (Q, h, w), of the type they were written as, of one view after another."""
    for place in sorted(folder.iterdir()):
        yield np.stack([np.asarray(Image.open(path)) for path in sorted(place.iterdir())])
