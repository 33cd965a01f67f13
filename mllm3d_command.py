"""Entry point of the command ``mllm3d``, the same as ``python -m pipeline``.

It is a module with a name of its own, so that a package ``pipeline`` of the user's, in the
current folder or on ``PYTHONPATH``, is not imported in place of the project's.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main() -> int:
    """Run the command line; the exit code is that of ``pipeline.__main__.main``."""
    spec = PathFinder.find_spec("pipeline", [str(Path(__file__).resolve().parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"the package pipeline is missing beside {__file__}")
    package = module_from_spec(spec)
    sys.modules["pipeline"] = package
    spec.loader.exec_module(package)

    from pipeline.__main__ import main as run

    return run(name="mllm3d")


if __name__ == "__main__":
    sys.exit(main())
