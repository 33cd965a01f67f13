"""Order of ``sys.path``: the project's packages before a user's packages with the same names.

Python searches the current folder, or ``PYTHONPATH``, before installed packages, and a user's
project often has folders named ``data``, ``models`` or ``configs``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
"""The folder that holds the project's packages: the repository, or ``site-packages``."""
PACKAGES = ("configs", "data", "models", "pipeline", "stages")


def put_project_first() -> None:
    """Move entries of ``sys.path`` that hide a package of the project behind the project's root.

    The root is appended where it is missing. All other entries keep their order, and modules in
    a moved entry can still be imported. Spawned processes inherit ``sys.path``.
    """
    real_paths = [os.path.realpath(entry) for entry in sys.path]
    index = real_paths.index(str(ROOT)) if str(ROOT) in real_paths else len(real_paths)
    before, after = sys.path[:index], sys.path[index + 1 :]
    hiding = [entry for entry in before if hides_project(entry)]
    sys.path[:] = [entry for entry in before if entry not in hiding] + [str(ROOT), *hiding, *after]


def hides_project(entry: str) -> bool:
    """Whether a folder other than the project's root holds a package or module named like ours."""
    names = [*PACKAGES, *(f"{name}.py" for name in PACKAGES)]
    is_root = os.path.realpath(entry) == str(ROOT)
    return not is_root and any(os.path.exists(os.path.join(entry, name)) for name in names)
