"""Record the SHA-256 of every file that small whole runs write, and compare two such records.

    python -m benchmarks.same_bytes record before.json --checkout ../other
    python -m benchmarks.same_bytes record after.json
    python -m benchmarks.same_bytes compare before.json after.json --renamed judge=evaluate

``record`` runs ``luigi --module pipeline`` of a checkout in a temporary folder. The key of a file
is its run, stage, scene and name, without the fingerprint of its artifact, which changes with
raised versions and renamed stages. Where several artifacts share a key (seeds, arms), the sorted
list of their digests is recorded. The rules of ``RULES`` remove times from the bytes before
hashing; ``record`` prints how many files each rule changed. ``compare`` returns 1 unless every
file is on both sides with the same digests.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.small_runs import OUTPUT, RUNS, make_run
from data.errors import DataError, UserError
from data.jsonio import read_json

RENAMED: dict[str, str] = {
    "judge_teacher": "evaluate_teacher_2d",
    "judgement.npz": "teacher_2d.npz",
    "said.json": "answers.json",
}
"""Old to new names of stages and files that this tree renamed on purpose."""

LEFT_OUT = {
    "metadata.json": "times, memory, host, versions and fingerprints of an artifact",
    "latest*.json": "points to an artifact by its fingerprint and lists the sizes of its files",
    "*.log": "lines with times",
}
"""Patterns of file names that are not recorded, and the reason. Hidden files are locks."""

_HERE = Path(__file__).resolve().parents[1]
_FINGERPRINT = re.compile(r"[0-9a-f]{12}")

Digests = dict[str, list[str]]
"""Sorted SHA-256 digests by ``stage/scene/file``."""


def _without_seconds(content: bytes) -> bytes:
    return re.sub(rb'("seconds": )(\[[^\]]*\]|[0-9.e+-]+)', rb"\1 0", content)


def _state_without_seconds(content: bytes) -> bytes:
    """Join the tensors, numbers and texts of a checkpoint, without the times of its log."""
    import torch

    state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    for line in state.get("log", []):
        line.pop("seconds", None)
    return b"\n".join(_parts(state))


def _parts(value: Any) -> Iterator[bytes]:
    import torch

    if isinstance(value, torch.Tensor):
        yield f"{value.dtype} {tuple(value.shape)}".encode()
        yield value.contiguous().flatten().view(torch.uint8).numpy().tobytes()
    elif isinstance(value, Mapping):
        yield f"mapping {len(value)}".encode()
        for key, item in value.items():
            yield repr(key).encode()
            yield from _parts(item)
    elif isinstance(value, list | tuple):
        yield f"{type(value).__name__} {len(value)}".encode()
        for item in value:
            yield from _parts(item)
    else:
        yield repr(value).encode()


def _uncompressed_hdf(content: bytes) -> bytes:
    """Join names, attributes, types, chunks and values of an HDF5 file.

    The same values may be compressed to other bytes: LZF starts with an uninitialised table, and
    any table gives a valid stream.
    """
    import h5py
    import numpy as np

    parts: list[bytes] = []

    def add(name: str, node: Any) -> None:
        attributes = {key: np.asarray(node.attrs[key]) for key in sorted(node.attrs)}
        told = {key: (value.dtype.str, value.tolist()) for key, value in attributes.items()}
        parts.append(repr((name, told)).encode())
        if isinstance(node, h5py.Dataset):
            parts.append(repr((str(node.dtype), node.shape, node.chunks)).encode())
            values = np.asarray(node[()])
            is_text = values.dtype.hasobject
            parts.append(repr(values.tolist()).encode() if is_text else values.tobytes())

    with h5py.File(io.BytesIO(content)) as file:
        add("/", file)
        file.visititems(add)
    return b"\n".join(parts)


_TIME = rb"(?:[0-9.]+ s|\d+ min \d+ s|\d+ h \d+ min)"
_CELL = rb'<td class="num">'
_PAGE = (
    # Totals of the run.
    (rb"(<dt>Time of all stages</dt><dd>)" + _TIME, rb"\1TIME"),
    (rb"(<dt>Largest memory</dt><dd>)\d+ MB", rb"\1MEMORY"),
    # The short and the long table of stages.
    (rb"<code>[0-9a-f]{12}</code>", b"<code>FINGERPRINT</code>"),
    (_CELL + _TIME + rb"</td>" + _CELL + rb"\d+ MB</td></tr>", b"TIME MEMORY</tr>"),
    (rb"(one each|FINGERPRINT</code>)(</td>" + _CELL + rb"\d+</td>)" + _CELL + rb"[0-9.]+</td>"
     + _CELL + rb"\d+</td></tr>", rb"\1\2TIME MEMORY</tr>"),
    # Seconds are the last column of the table of arms, behind an interval.
    (rb"( to [0-9.]+</td>\s*)" + _CELL + rb"\d+</td></tr>", rb"\1SECONDS</tr>"),
)  # fmt: skip


def _page_without_times(content: bytes) -> bytes:
    for pattern, instead in _PAGE:
        content = re.sub(pattern, instead, content)
    for old, new in RENAMED.items():
        row = '<tr><th scope="row">{}</th>'
        content = content.replace(row.format(old).encode(), row.format(new).encode())
    return content


RULES: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "seconds in JSON are 0": (r".*\.jsonl?", _without_seconds),
    "the log in a checkpoint has no seconds": (r"state\.pt", _state_without_seconds),
    "HDF5 files are hashed uncompressed": (r".*\.h5", _uncompressed_hdf),
    "times, memory and fingerprints in a page are words": (r".*\.html", _page_without_times),
}
"""By name: the file names it is for (a regular expression), and what it makes of the bytes."""


def digests(output: Path) -> tuple[Digests, dict[str, list[str]]]:
    """Digests of all recorded files below ``output``, and for each rule the keys it changed."""
    found: Digests = {}
    changed: dict[str, list[str]] = {}
    for path in sorted(output.rglob("*")):
        key = file_key(path, output)
        if key is None:
            continue
        content = path.read_bytes()
        for rule, (names, apply) in RULES.items():
            if re.fullmatch(names, path.name):
                before, content = content, apply(content)
                if content != before:
                    changed.setdefault(rule, []).append(key)
        found.setdefault(key, []).append(hashlib.sha256(content).hexdigest())
    return {key: sorted(values) for key, values in found.items()}, changed


def file_key(path: Path, output: Path) -> str | None:
    """Stage, scene and name of a file, without fingerprints; None where it is not recorded."""
    relative = path.relative_to(output)
    is_left_out = any(path.match(pattern) for pattern in LEFT_OUT)
    if not path.is_file() or is_left_out or any(part[0] == "." for part in relative.parts):
        return None
    parts = []
    for depth, part in enumerate(relative.parts):
        folder = output.joinpath(*relative.parts[: depth + 1])
        if not (_FINGERPRINT.fullmatch(part) and (folder / "metadata.json").exists()):
            parts.append(part)
    return "/".join(parts)


@dataclass(frozen=True)
class Comparison:
    """Keys (``run/set/stage/scene/file``) by how the two records compare."""

    equal: list[str]
    differing: list[str]
    only_before: list[str]
    only_after: list[str]

    @property
    def is_same(self) -> bool:
        """Whether there are files, and every one is on both sides with the same digests."""
        return bool(self.equal) and not (self.differing or self.only_before or self.only_after)


def compare(before: Digests, after: Digests, renamed: Mapping[str, str]) -> Comparison:
    """Compare two records; ``renamed`` maps old to new parts of the keys of ``before``."""
    new_keys: Digests = {}
    for key, values in before.items():
        new_key = "/".join(renamed.get(part, part) for part in key.split("/"))
        new_keys[new_key] = sorted([*new_keys.get(new_key, []), *values])
    both = sorted(new_keys.keys() & after.keys())
    return Comparison(
        [key for key in both if new_keys[key] == after[key]],
        [key for key in both if new_keys[key] != after[key]],
        sorted(new_keys.keys() - after.keys()),
        sorted(after.keys() - new_keys.keys()),
    )


def read_record(path: Path) -> Digests:
    """The digests of a record of all runs; DataError when the file is no such record."""
    remedy = "Make it with: python -m benchmarks.same_bytes record FILE"
    content = read_json(path, "a record of runs", remedy)
    if not isinstance(content, dict) or not isinstance(content.get("digests"), dict):
        raise DataError(path, "a JSON object with an object 'digests'", "another content", remedy)
    return {
        str(key): [str(value) for value in values] for key, values in content["digests"].items()
    }


def _record(options: argparse.Namespace) -> int:
    checkout = options.checkout.resolve()
    if not (checkout / "pipeline").is_dir():
        raise DataError(checkout, "a checkout of the project", "no pipeline/", "Name another.")
    names = [name for name in options.runs.split(",") if name]
    unknown = sorted(set(names) - RUNS.keys())
    if unknown or not names:
        raise UserError(f"--runs {options.runs}: expected some of {','.join(RUNS)}")
    if not options.out.parent.is_dir():
        raise DataError(options.out, "a file in a folder", "no such folder", "Make it first.")
    record: Digests = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = (options.keep or Path(temporary)).resolve()
        for name in names:
            output = folder / name / OUTPUT
            if not options.again:
                make_run(RUNS[name], checkout, folder / name)
            elif not output.is_dir():
                raise DataError(output, "the outputs of a kept run", "none", "Leave out --again.")
            found, changed = digests(output)
            record |= {f"{name}/{key}": values for key, values in found.items()}
            print(f"{name}: {sum(map(len, found.values()))} files", flush=True)
            for rule, keys in changed.items():
                names_of_files = sorted({key.rsplit("/", 1)[-1] for key in keys})
                print(f"  {rule}: {len(keys)} files, {', '.join(names_of_files)}")
    print("left out: " + "; ".join(f"{name} ({why})" for name, why in LEFT_OUT.items()))
    options.out.write_text(json.dumps({"digests": record}, indent=1, sort_keys=True) + "\n")
    return 0


def _compare(options: argparse.Namespace) -> int:
    pairs = [pair.split("=") for pair in options.renamed.split(",") if pair]
    if any(len(pair) != 2 or not all(pair) for pair in pairs):
        raise UserError(f"--renamed {options.renamed}: expected OLD=NEW,... with names of files")
    renamed = RENAMED | {old: new for old, new in pairs}
    found = compare(read_record(options.before), read_record(options.after), renamed)
    for title in ("differing", "only_before", "only_after"):
        for key in getattr(found, title):
            print(f"{title.replace('_', ' ')}: {key}")
    print(
        f"{len(found.equal)} equal, {len(found.differing)} differing, {len(found.only_before)} "
        f"only before, {len(found.only_after)} only after, {len(renamed)} renames"
    )
    return int(not found.is_same)


def main(arguments: Sequence[str] | None = None) -> int:
    """Record or compare as the command line says; 1 when records differ, 2 on bad input."""
    parser = argparse.ArgumentParser(prog="same_bytes", description=__doc__.split("\n", 1)[0])
    commands = parser.add_subparsers(required=True)
    record = commands.add_parser("record", help="make runs and write the digests of their files")
    record.add_argument("out", type=Path)
    record.add_argument("--runs", default=",".join(RUNS), help="names, comma between them")
    record.add_argument("--checkout", type=Path, default=_HERE, help="the tree whose code runs")
    record.add_argument("--keep", type=Path, help="a new folder where the outputs stay")
    record.add_argument(
        "--again", action="store_true", help="run nothing, hash what an earlier --keep kept"
    )
    record.set_defaults(command=_record)
    comparing = commands.add_parser("compare", help="compare two records")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    comparing.add_argument("--renamed", default="", help="more renames: OLD=NEW,...")
    comparing.set_defaults(command=_compare)
    options = parser.parse_args(arguments)
    try:
        return int(options.command(options))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
