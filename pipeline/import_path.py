"""The project's packages are found before others of the same names.

Python puts the current folder, or ``PYTHONPATH``, in front of everything that is installed, and
a user's project often has folders named ``data``, ``models`` or ``configs``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the project's packages: the repository, or ``site-packages``."""
PACKAGES = ("configs", "data", "models", "pipeline", "stages")


def put_project_first() -> None:
    """Move entries of ``sys.path`` that hold a package named like ours behind the project's root.

    The root is appended where it is missing. All other entries keep their order, and modules in
    a moved entry can still be imported. Processes that are spawned inherit ``sys.path``.
    """
    places = [os.path.realpath(entry) for entry in sys.path]
    index = places.index(str(ROOT)) if str(ROOT) in places else len(places)
    before, after = sys.path[:index], sys.path[index + 1 :]
    hiding = [entry for entry in before if hides_project(entry)]
    sys.path[:] = [entry for entry in before if entry not in hiding] + [str(ROOT), *hiding, *after]


def hides_project(entry: str) -> bool:
    """Whether a folder, not the project's root, holds a name of one of the project's packages."""
    names = [*PACKAGES, *(f"{name}.py" for name in PACKAGES)]
    is_root = os.path.realpath(entry) == str(ROOT)
    return not is_root and any(os.path.exists(os.path.join(entry, name)) for name in names)
