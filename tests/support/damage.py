"""Ways to damage one small file, and the check that a loader's error names the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from data.errors import DataError

WORDS = ("nan", "-inf", "x", "", "1e999", "-1", "0", "3 4", "\x00", "ä", "9" * 40)
VALUES: tuple[Any, ...] = (
    *(None, True, -1, 0, 1.5, 10**9, 10**30, "", "x", "5", [], {}, [None], [[1]], ["x"]),
    *(float("nan"), float("inf")),
)


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def check_damaged(path: Path, damaged: bytes, read: Callable[[], object]) -> bool:
    """Return whether ``read`` refuses ``damaged`` in place of the file, which is then restored.

    Only a DataError that names the file is accepted; any other error is raised.
    """
    good = path.read_bytes()
    path.write_bytes(damaged)
    try:
        read()
    except DataError as error:
        assert str(path) in str(error), f"{error} does not name {path}"
        return True
    finally:
        path.write_bytes(good)
    return False


@st.composite
def damaged_bytes(draw: st.DrawFn, good: bytes) -> bytes:
    """Truncate a file, change bytes, or both; every byte is equally likely."""
    bad = bytearray(good)
    for place in draw(st.lists(st.integers(0, len(good) - 1), max_size=6)):
        bad[place] = draw(st.integers(0, 255))
    return bytes(bad[: draw(st.one_of(st.just(len(good)), st.integers(0, len(good))))])


@st.composite
def damaged_words(draw: st.DrawFn, good: bytes) -> bytes:
    """Change, remove or add words in the lines of a text of numbers."""
    lines = [line.split(" ") for line in good.decode().splitlines()]
    for _ in range(draw(st.integers(1, 3))):
        line = draw(st.sampled_from(lines))
        place = draw(st.integers(0, len(line)))
        kind = draw(st.sampled_from(["change", "remove", "add"]))
        if kind == "add" or place == len(line):
            line.insert(place, draw(st.sampled_from(WORDS)))
        elif kind == "remove":
            line.pop(place)
        else:
            line[place] = draw(st.sampled_from(WORDS))
    return ("\n".join(" ".join(line) for line in lines) + "\n").encode()


@st.composite
def damaged_json(draw: st.DrawFn, good: bytes) -> bytes:
    """Remove, double or change the type of one value of a JSON file, at any depth."""
    node = content = json.loads(good)
    while True:
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
        inner = node[key]
        if not isinstance(inner, (dict, list)) or not inner or draw(st.integers(0, 2)) == 0:
            break
        node = inner
    kind = draw(st.sampled_from(["value", "value", "remove", "double"]))
    if kind == "double" and isinstance(node, dict):
        return json.dumps(draw(st.sampled_from(VALUES))).encode()
    if kind == "value":
        node[key] = draw(st.sampled_from(VALUES))
    elif kind == "remove":
        del node[key]
    else:
        node.insert(key, node[key])
    return json.dumps(content).encode()
