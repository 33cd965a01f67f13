"""Entry point of the command ``mllm3d``, the same as ``python -m pipeline``.

The module has a unique name, and it imports the package ``pipeline`` from its own folder, so that a
user's package ``pipeline`` in the current folder or on ``PYTHONPATH`` is not imported instead.
"""

from __future__ import annotations

import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from pathlib import Path


def main() -> int:
    """Run the command line and return the exit code of ``pipeline.__main__.main``."""
    spec = PathFinder.find_spec("pipeline", [str(Path(__file__).resolve().parent)])
    if spec is None or spec.loader is None:
        raise ImportError(f"expected the package pipeline beside {__file__}, found none")
    package = module_from_spec(spec)
    sys.modules["pipeline"] = package
    spec.loader.exec_module(package)

    from pipeline.__main__ import main as run

    return run(name="mllm3d")


if __name__ == "__main__":
    sys.exit(main())
