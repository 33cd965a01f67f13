"""The one room that imports Open3D.

Open3D's library wants libusb-1.0 from the system. Where it is missing, the copy that PyPI's
``libusb-package`` ships is loaded first; for any other missing library the error names the
apt line (most servers need none).
"""

from __future__ import annotations

import ctypes
import ctypes.util
from functools import cache
from types import ModuleType

from data.errors import UserError

APT_LINE = "apt-get install libgl1 libegl1 libx11-6 libgomp1 libusb-1.0-0"


@cache
def open3d() -> ModuleType:
    """Import Open3D, preloading libusb where the system has none; UserError when it cannot."""
    if ctypes.util.find_library("usb-1.0") is None:
        import libusb_package

        ctypes.CDLL(str(libusb_package.get_library_path()), mode=ctypes.RTLD_GLOBAL)
    try:
        import open3d as library
    except (ImportError, OSError) as error:
        raise UserError(f"Open3D cannot be loaded ({error}); run: {APT_LINE}") from error
    return library
