"""The images of a scene's views, read for the models that look at them."""

from __future__ import annotations

import numpy as np
from PIL import Image, UnidentifiedImageError

from data.errors import DataError
from data.types import Array, View


def read_image(view: View) -> Array:
    """The view's image, (H, W, 3) uint8 RGB; DataError unless it is an image of that size."""
    wanted = f"an image of {view.camera.width}x{view.camera.height} pixels"
    remedy = "Restore the file from the data set, then run PrepareScene again."
    try:
        with Image.open(view.image_path) as image:
            pixels = np.array(image.convert("RGB"))
    except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
        found = "none" if isinstance(error, FileNotFoundError) else str(error)
        raise DataError(view.image_path, wanted, found, remedy) from error
    if pixels.shape[:2] != (view.camera.height, view.camera.width):
        found = f"one of {pixels.shape[1]}x{pixels.shape[0]}"
        raise DataError(view.image_path, wanted, found, remedy)
    return pixels
