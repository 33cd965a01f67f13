"""Check the layout of the product's Python files: ``python -m benchmarks.layout``.

Prints the number of files, the files per folder, the median and the longest file, and the files
with a single importer in another folder. The exit code is 1 above a limit.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

REPOSITORY = Path(__file__).resolve().parents[1]
LAYERS = ("data", "models", "stages", "pipeline", "configs")
# 200 for the subjects of the first version and ten since: small things; walks, sensors, pictures,
# surfaces and scans of rooms; depth fusion for rooms and readers; the quality of scans; the trust
# in links; the support of answers. Six more: sentences apart from the questions they put, words of
# sentences, LISA-nano's exam, its optimiser; how sure answers are, and how rightly. Eight for
# relations: trees, parsing, instances, scores, solving, and answers by labels and by words.
MOST_FILES, MOST_IN_FOLDER, MOST_LINES = 224, 20, 500
MOST_TESTS_IN_FOLDER = 20


class Module(NamedTuple):
    """A Python file: its dotted name, its folder, its lines and whether it is an ``__init__``."""

    name: str
    folder: str
    lines: int
    is_init: bool


class Layout(NamedTuple):
    """The product's modules, folders with their number of files, and importers by module."""

    modules: dict[str, Module]
    folders: Counter[str]
    test_folders: Counter[str]
    importers: dict[str, set[str]]


def layout(repository: Path = REPOSITORY) -> Layout:
    """Read the layout of a checkout; an ``__init__`` with only a docstring does not count."""
    trees = {m: t for folder in LAYERS for m, t in _trees(repository, folder)}
    modules = {m.name: m for m in trees}
    importers: dict[str, set[str]] = defaultdict(set)
    for module, tree in trees.items():
        for name in _imports(tree, modules):
            if name != module.name:
                importers[name].add(module.name)
    folders = Counter(m.folder for m in trees if not m.is_init)
    paths = (path.relative_to(repository) for path in (repository / "tests").rglob("*.py"))
    tests = Counter(path.parent.as_posix() for path in paths if path.name != "__init__.py")
    return Layout(modules, folders, tests, dict(importers))


def single_importers(found: Layout) -> dict[str, str]:
    """Return modules that exactly one module imports, from another folder of their layer.

    A module that only another layer imports, or the ``__init__`` or ``__main__`` of the layer, is
    an entry of its layer (a stage, a command) and does not count.
    """
    alone = {}
    for name, importers in found.importers.items():
        module = found.modules[name]
        importer = found.modules[min(importers)]
        same_layer = name.partition(".")[0] == importer.name.partition(".")[0]
        is_entry = importer.folder in LAYERS and (
            importer.is_init or importer.name.endswith("__main__")
        )
        is_elsewhere = same_layer and importer.folder != module.folder and not is_entry
        if len(importers) == 1 and is_elsewhere:
            alone[name] = importer.name
    return alone


def problems(found: Layout, layers: tuple[str, ...] = LAYERS) -> list[str]:
    """Return one line for every limit that the files of ``layers`` exceed."""
    told = []
    if len(found.modules) > MOST_FILES and layers == LAYERS:
        told.append(f"{len(found.modules)} product files, at most {MOST_FILES}")
    counts = {**found.folders, **(found.test_folders if layers == LAYERS else {})}
    for folder, count in sorted(counts.items()):
        most = MOST_TESTS_IN_FOLDER if folder.startswith("tests") else MOST_IN_FOLDER
        if count > most and folder.partition("/")[0] in (*layers, "tests"):
            told.append(f"{folder}/: {count} Python files, at most {most}")
    for module in found.modules.values():
        if module.lines > MOST_LINES and module.name.partition(".")[0] in layers:
            told.append(f"{module.name}: {module.lines} lines, at most {MOST_LINES}")
    for name, importer in sorted(single_importers(found).items()):
        if name.partition(".")[0] in layers:
            told.append(f"{name}: only {importer} imports it, from another folder")
    return told


def _trees(repository: Path, folder: str) -> Iterator[tuple[Module, ast.Module]]:
    for path in sorted((repository / folder).rglob("*.py")):
        text = path.read_text("utf-8")
        tree = ast.parse(text)
        is_init = path.name == "__init__.py"
        if is_init and len(tree.body) <= 1:
            continue
        place = path.relative_to(repository)
        name = ".".join((place.parent if is_init else place.with_suffix("")).parts)
        yield Module(name, place.parent.as_posix(), text.count("\n"), is_init), tree


def _imports(tree: ast.Module, modules: dict[str, Module]) -> Iterator[str]:
    """Yield the product's modules that a file imports, at its top or inside functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                if full in modules:
                    yield full
                elif node.module in modules:
                    yield node.module


def main() -> int:
    """Print the layout and its problems; return 1 where a limit is exceeded."""
    found = layout()
    lines = sorted((m.lines, m.name) for m in found.modules.values())
    print(f"{len(lines)} product files, {sum(count for count, _ in lines)} lines")
    print(f"median {median(count for count, _ in lines):.0f} lines, longest", *reversed(lines[-1]))
    for folder, count in sorted((found.folders + found.test_folders).items()):
        print(f"{count:4d} {folder}/")
    told = problems(found)
    for problem in told:
        print("over a limit:", problem)
    return 1 if told else 0


if __name__ == "__main__":
    sys.exit(main())
