"""Benchmarks compare like with like: same answers on tiny inputs, and wrong ones are caught."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import __main__ as command
from benchmarks.harness import SCALES, Row, WrongAnswer, peak_megabytes, seconds, verify
from benchmarks.reference import (
    depth,
    evaluation,
    lifting,
    links,
    superpoints,
    teacher_cache,
    training,
    voxels,
)
from benchmarks.table import table

TINY = SCALES["tiny"]


@pytest.mark.parametrize("name", command.COMPARED)
def test_ours_and_the_reference_agree(name: str, tmp_path: Path) -> None:
    assert command.benchmark(name)(TINY, tmp_path, 0) == []


SPOILERS: list[tuple[str, Any, str, Callable[..., Any]]] = [
    ("links", links, "link_view", lambda answer: (answer[0], answer[1] + 0.01)),
    ("links", links, "link_view", lambda answer: (answer[0][1:], answer[1][1:])),
    ("depth", depth.RayCasting, "view", lambda depth: depth * 1.001),
    ("voxels", voxels, "voxelise", lambda answer: (answer[0], np.roll(answer[1], 1))),
    ("superpoints", superpoints, "superpoints", lambda answer: np.roll(answer, 1)),
    ("teacher_cache", teacher_cache, "read_masks", lambda views: [~masks for masks in views]),
    ("lifting", lifting, "sample", lambda values: values + 0.01),
    ("training", training, "step", lambda told: {**told, "dice": 1.001 * told["dice"]}),
    ("evaluation", evaluation, "score", lambda counts: (counts[0], counts[1] + 1)),
]


@pytest.mark.parametrize(("name", "module", "function", "spoil"), SPOILERS)
def test_a_different_answer_is_refused(
    name: str,
    module: Any,
    function: str,
    spoil: Callable[..., Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right = getattr(module, function)
    monkeypatch.setattr(module, function, lambda *arguments: spoil(right(*arguments)))
    with pytest.raises(WrongAnswer):
        command.benchmark(name)(TINY, tmp_path, 0)


def test_answers_of_different_length_are_refused() -> None:
    with pytest.raises(WrongAnswer, match="case: answers of different length"):
        verify("case", lambda: [1], lambda: [1, 2], lambda mine, theirs: None)


def test_a_side_that_is_left_early_is_ended() -> None:
    ended: list[str] = []

    def side() -> Iterator[int]:
        try:
            yield from (1, 2, 3)
        finally:
            ended.append("side")

    def refuse(mine: int, theirs: int) -> None:
        raise WrongAnswer(f"{mine}, {theirs}")

    with pytest.raises(WrongAnswer, match="case: 1, 1"):
        verify("case", side, side, refuse)
    assert ended == ["side", "side"]


def test_each_repeat_times_both_sides() -> None:
    calls: list[str] = []

    def side(name: str) -> Callable[[], Iterator[None]]:
        def parts() -> Iterator[None]:
            calls.append(name)
            yield None

        return parts

    times = seconds(side("ours"), side("reference"), 3)
    assert calls == ["ours", "reference", "reference", "ours", "ours", "reference"]
    assert min(times) >= 0


def test_peak_memory_sees_what_is_freed_again() -> None:
    def side() -> Iterator[int]:
        yield len(np.ones(5_000_000))

    assert 39 < peak_megabytes(side) < 60


def test_command_writes_rows_and_fails_on_a_wrong_answer_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    monkeypatch.setitem(SCALES, "quick", TINY)
    arguments = ["--quick", "--repeats", "1", "--output", str(output), "voxels", "evaluation"]
    assert command.main(arguments) == 0
    rows = json.loads(output.read_text())
    keys = {"name", "ratio", "target", "ours", "reference", "unit", "repeats"}
    assert len(rows) == 3 and all(set(found) == keys for found in rows)
    monkeypatch.setattr(voxels, "voxelise", lambda points, size: (points, points))
    assert command.main(arguments) == 1
    assert "WRONG ANSWER in voxels" in capsys.readouterr().err
    assert len(json.loads(output.read_text())) == 2


def test_unknown_names_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["voxel"])
    assert "voxel" in capsys.readouterr().err


def test_table_says_what_missed_its_target() -> None:
    lines = table(
        [Row("a: time", 3.0, 2.0, 0.5, 1.5, "s", 5), Row("b: time", 1.0, 2.0, 1.0, 1.0, "s", 5)]
    ).splitlines()
    assert [cell.strip() for cell in lines[2].split("|")[1:-1]] == [
        "a: time",
        "0.5 s",
        "1.5 s",
        "3",
        "≥ 2",
        "met",
    ]
    assert "missed" in lines[3]
