"""``python -m pipeline teacher``: whole answers as the public code gave them, and refusals."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.__main__ import main

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa"
CHECKPOINT = GOLDEN / "v1" / "checkpoint"


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "picture.png"
    Image.fromarray(np.full((40, 60, 3), 90, np.uint8)).save(path)
    return path


def ask(image: Path, out: Path, *more: str, query: str = "the chair") -> int:
    """The command's exit code on the tiny published-layout checkpoint, in this process."""
    line = ["teacher", "--teacher", "lisa", "--weights", str(CHECKPOINT), "--dtype", "fp32"]
    return main([*line, "--image", str(image), "--query", query, "--out", str(out), *more])


@pytest.mark.parametrize(("version", "name"), [("v1", "lisa"), ("plus", "lisa_plus")])
def test_answers_are_those_of_the_public_code(
    version: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = GOLDEN / version
    golden = json.loads((folder / "golden.json").read_text())
    tensors = np.load(folder / "tensors.npz")
    for image in {sample["image"] for sample in golden["samples"]}:
        samples = [(i, s) for i, s in enumerate(golden["samples"]) if s["image"] == image]
        out = tmp_path / "out.npz"
        line = ["teacher", "--image", str(folder / image), "--teacher", name, "--raw"]
        line += ["--weights", str(folder / "checkpoint"), "--dtype", "fp32", "--out", str(out)]
        line += ["--max-new-tokens", str(golden["max_new_tokens"])]
        for _, sample in samples:
            line += ["--query", sample["question"]]
        assert main(line) == 0
        printed, ours = capsys.readouterr().out, np.load(out)
        for index, (number, sample) in enumerate(samples):
            assert str(ours[f"answer_{index}"]) == sample["answer"] and sample["answer"] in printed
            check_sample(ours, index, tensors, f"sample{number}__", sample)


def check_sample(ours: Any, index: int, tensors: Any, prefix: str, sample: dict[str, Any]) -> None:
    """Every array of one query against the public code's."""
    ids = ours[f"output_ids_{index}"]
    assert ids.dtype == np.int64 and (ids == -200).sum() == 1
    assert np.array_equal(ids, tensors[f"{prefix}output_ids"])
    num_seg, (height, width) = sample["n_seg"], sample["original_size"]
    logits = ours[f"mask_logits_{index}"]
    assert logits.shape == (num_seg, height, width) and logits.dtype == np.float32
    assert ours[f"iou_{index}"].shape == (num_seg, 1)
    if not num_seg:
        assert len(ours[f"seg_embedding_{index}"]) == len(ours[f"low_res_masks_{index}"]) == 0
        return
    stride = sample["mask_logits_stride"]
    for name, theirs, got in (
        ("seg_embedding", "seg_embedding", ours[f"seg_embedding_{index}"]),
        ("low_res_masks", "low_res_masks", ours[f"low_res_masks_{index}"]),
        ("iou", "iou_predictions", ours[f"iou_{index}"]),
        ("mask_logits", "mask_logits", logits[:, ::stride, ::stride]),
    ):
        wanted = tensors[prefix + theirs]
        assert got.shape == wanted.shape and got.dtype == np.float32, name
        assert np.abs(got - wanted).max() <= 1e-4, name


def test_without_raw_the_question_form_is_added(picture: Path, tmp_path: Path) -> None:
    lengths = []
    for more in ((), ("--raw",)):
        assert ask(picture, tmp_path / "out.npz", "--max-new-tokens", "1", *more) == 0
        lengths.append(len(np.load(tmp_path / "out.npz")["output_ids_0"]))
    assert lengths[0] > lengths[1]
    with Image.open(tmp_path / "out.png") as shown:
        assert shown.width >= 360


def refusal(code: int, capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command that ended with 2."""
    assert code == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and told.startswith("python -m pipeline teacher: ")
    return told


@pytest.mark.parametrize(
    ("name", "write", "message"),
    [
        ("none.png", lambda path: None, "no such file"),
        ("text.png", lambda path: path.write_text("no picture"), "found no picture"),
        ("folder.png", lambda path: path.mkdir(), "cannot be read"),
        ("deep.png", lambda path: grey16().save(path), "found one of mode 'I;16'"),
        ("float.tif", lambda path: grey16().convert("F").save(path), "found one of mode 'F'"),
        ("cut.png", lambda path: path.write_bytes(half_a_png()), "cannot be read"),
    ],
)
def test_what_is_no_picture_is_refused(
    name: str, write: Any, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / name)
    told = refusal(ask(tmp_path / name, tmp_path / "out.npz"), capsys)
    assert message in told and name in told
    assert not list(tmp_path.glob("out*"))


def grey16() -> Image.Image:
    return Image.fromarray(np.full((8, 8), 40_000, np.uint16))


def half_a_png() -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(stream, "PNG")
    return stream.getvalue()[: len(stream.getvalue()) // 2]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--out", "out.txt"), "expected the name of an .npz file"),
        (("--out", "nowhere/out.npz"), "expected an existing folder"),
        (("--out", "picture.npz"), "is the input image and would be overwritten"),
        (("--weights", "nowhere"), "nowhere: expected a folder of weights, found no such folder"),
        (("--weights", ""), "set teacher.lisa.weights"),
        (("--weights", "."), "without config.json"),
        (("--vision-tower", "./nowhere"), "found no such folder"),
        (("--query", " "), "expected a sentence, found an empty text"),
    ],
)
def test_wrong_options_are_refused_before_the_model_is_loaded(
    more: tuple[str, ...],
    message: str,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(picture.parent)
    monkeypatch.setattr("stages.teacher.make_teacher.make_lisa", None)
    assert message in refusal(ask(picture, Path("out.npz"), *more), capsys)
    assert [path.name for path in picture.parent.iterdir()] == ["picture.png"]


@pytest.mark.parametrize(
    "more",
    [
        ("--teacher", "sam"),
        ("--conv", "vicuna"),
        ("--use-start-end", "maybe"),
        ("--dtype", "fp8"),
        ("--max-new-tokens", "0"),
        ("--max-new-tokens", "many"),
        ("--quer", "x"),
        ("--colour", "red"),
    ],
)
def test_unknown_options_are_one_line(
    more: tuple[str, ...], picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        ask(picture, tmp_path / "out.npz", *more)
    code = caught.value.code
    told = capsys.readouterr().err
    assert code == 2 and told.count("\n") == 1 and more[0] in told


def test_a_damaged_checkpoint_is_refused_and_nothing_is_written(
    picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text('{"mm_vision_tower": ')
    code = ask(picture, tmp_path / "out.npz", "--weights", str(tmp_path / "weights"))
    assert "config.json" in refusal(code, capsys)
    assert not list(tmp_path.glob("*out*"))


def test_a_failed_write_leaves_the_old_results(
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "out.npz"
    out.write_text("old")

    def full(path: Path, content: bytes) -> None:
        if ".png" in path.name:
            raise OSError(28, "No space left on device")
        path.write_text("half")

    monkeypatch.setattr("pathlib.Path.write_bytes", full)
    assert ask(picture, out, "--max-new-tokens", "1") == 1
    assert "No space left" in capsys.readouterr().err
    assert out.read_text() == "old" and sorted(p.name for p in tmp_path.iterdir()) == [
        "out.npz",
        "picture.png",
    ]


def test_help_answers_at_once_and_names_the_commands(tmp_path: Path) -> None:
    for line in (["teacher", "--help"], []):
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-m", "pipeline", *line],
            cwd=tmp_path,
            env=os.environ,
            capture_output=True,
            text=True,
            check=True,
        )
        assert time.monotonic() - start < 5
        loaded = {row.rsplit("|", 1)[-1].strip() for row in done.stderr.splitlines()}
        assert "luigi" in loaded and not {"torch", "transformers", "numpy"} & loaded
        assert ("--weights" if line else "check-teacher") in done.stdout
