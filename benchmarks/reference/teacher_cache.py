"""Teacher cache: one 1-bit PNG per mask, one folder per view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from data.types import Array


def write_masks(folder: Path, views: Iterable[Array]) -> None:
    """Write the masks (Q, h, w) bool of each view."""
    for view, masks in enumerate(views):
        place = folder / f"view{view:04d}"
        place.mkdir(parents=True)
        for query, mask in enumerate(masks):
            Image.fromarray(mask).save(place / f"{query:04d}.png")


def read_masks(folder: Path) -> Iterator[Array]:
    """Masks (Q, h, w) bool of one view after another."""
    for place in sorted(folder.iterdir()):
        yield np.stack([np.asarray(Image.open(path)) for path in sorted(place.iterdir())])
