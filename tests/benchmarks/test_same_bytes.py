"""Records of what runs made: changed bytes, missing files and renames are found, times are not."""

from __future__ import annotations

import io
import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from benchmarks import same_bytes
from benchmarks.same_bytes import Digests, compare, digests, main
from data.types import Array

MASKS = "tiny/judge_teacher/0aa50a3b97/judgement.npz"
SCENE = "tiny/prepare_scene/0aa50a3b97/scene.h5"
DEPTH = np.arange(1200, dtype=np.uint16).reshape(30, 40) // 100
LOG = "tiny/train_student/metrics.jsonl"
STATE = "tiny/train_student/state.pt"
PAGE = "tiny/report/report.html"
ROW = (
    '<tr><th scope="row">judge_teacher</th><td><code>{}</code></td><td class="num">1</td>'
    '<td class="num">{}</td><td class="num">{}</td></tr>\n'
)


def artifact(output: Path, key: str, content: bytes, fingerprint: str) -> None:
    """A finished artifact of one file, at ``key`` with the fingerprint before its last part."""
    path = output / Path(key).parent / fingerprint / Path(key).name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    (path.parent / "metadata.json").write_text(json.dumps({"fingerprint": fingerprint}))


def hdf(depth: Array, view_id: str = "frame0", compression: str = "lzf") -> bytes:
    """An HDF5 file of one dataset and a text."""
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["view_id"] = view_id
        file.create_dataset("views/depth", data=depth, chunks=(30, 40), compression=compression)
        file["labels"] = np.asarray(["bed"], dtype=h5py.string_dtype())
    return stream.getvalue()


def make(output: Path, fingerprint: str = "0123456789ab", seconds: float = 1.5) -> Digests:
    """The digests of the outputs of a run; ``fingerprint`` and ``seconds`` must not matter."""
    artifact(output, SCENE, hdf(DEPTH), fingerprint)
    artifact(output, MASKS, b"masks", fingerprint)
    log = [{"epoch": 1, "loss": 0.25, "seconds": seconds}]
    artifact(output, LOG, json.dumps(log[0]).encode() + b"\n", fingerprint)
    state = {"weights": {"w": torch.arange(3.0)}, "steps": 4, "log": log}
    torch.save(state, output / Path(STATE).parent / fingerprint / "state.pt")
    page = f"<dt>Time of all stages</dt><dd>{seconds} s</dd>"
    page += "<dt>Largest memory</dt><dd>" + f"{seconds * 100:.0f} MB</dd>"
    page += ROW.format(fingerprint, seconds, round(seconds * 100))
    artifact(output, PAGE, page.encode(), fingerprint)
    (output / "tiny" / "latest.json").write_text(json.dumps({"report": fingerprint}))
    (output / "tiny" / ".0123456789ab.lock").touch()
    return digests(output)[0]


@pytest.fixture
def before(tmp_path: Path) -> Digests:
    return make(tmp_path / "before")


def test_runs_that_differ_in_times_and_fingerprints_are_the_same(
    before: Digests, tmp_path: Path
) -> None:
    after = make(tmp_path / "after", "ba9876543210", 77.25)
    assert sorted(after) == sorted([SCENE, MASKS, LOG, STATE, PAGE])
    found = compare(before, after, {})
    assert found.is_same and found.equal == sorted(before)
    _, changed = digests(tmp_path / "after")
    assert sorted(changed.values()) == [[SCENE], [PAGE], [LOG], [STATE]]


@pytest.mark.parametrize(
    ("key", "old", "new"),
    [
        (MASKS, b"masks", b"maskz"),
        (LOG, b'"loss": 0.25', b'"loss": 0.26'),
        (PAGE, b'<td class="num">1</td>', b'<td class="num">2</td>'),
    ],
)
def test_a_changed_byte_is_found(
    before: Digests, tmp_path: Path, key: str, old: bytes, new: bytes
) -> None:
    make(tmp_path / "after")
    (path,) = (tmp_path / "after" / Path(key).parent).glob(f"*/{Path(key).name}")
    content = path.read_bytes()
    assert content.count(old) == 1
    path.write_bytes(content.replace(old, new))
    found = compare(before, digests(tmp_path / "after")[0], {})
    assert found.differing == [key] and not found.is_same
    assert not found.only_before and not found.only_after


def test_what_an_hdf_file_holds_is_compared(before: Digests, tmp_path: Path) -> None:
    brighter = DEPTH.copy()
    brighter[3, 4] += 1
    others = (hdf(brighter), hdf(DEPTH, "frame1"))
    for number, content in enumerate((hdf(DEPTH), *others)):
        artifact(tmp_path / str(number), SCENE, content, "0123456789ab")
        found = digests(tmp_path / str(number))[0]
        assert (found[SCENE] == before[SCENE]) == (number == 0)


def test_one_array_in_other_compressed_bytes_is_the_same(before: Digests, tmp_path: Path) -> None:
    artifact(tmp_path / "gzip", SCENE, hdf(DEPTH, compression="gzip"), "0123456789ab")
    assert digests(tmp_path / "gzip")[0][SCENE] == before[SCENE]
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.attrs["view_id"] = "frame0"
        depth = file.create_dataset(
            "views/depth", (30, 40), "u2", chunks=(30, 40), compression="lzf"
        )
        # Stored as it is, with a mark that the first filter was left out.
        depth.id.write_direct_chunk((0, 0), DEPTH.tobytes(), filter_mask=1)
        file["labels"] = np.asarray(["bed"], dtype=h5py.string_dtype())
    assert stream.getvalue() != hdf(DEPTH)
    artifact(tmp_path / "after", SCENE, stream.getvalue(), "0123456789ab")
    assert digests(tmp_path / "after")[0][SCENE] == before[SCENE]


def test_a_changed_weight_in_a_checkpoint_is_found(before: Digests, tmp_path: Path) -> None:
    make(tmp_path / "after")
    (path,) = (tmp_path / "after" / Path(STATE).parent).glob("*/state.pt")
    state = torch.load(path, weights_only=True)
    state["weights"]["w"][1] += 1e-6
    torch.save(state, path)
    assert compare(before, digests(tmp_path / "after")[0], {}).differing == [STATE]


def test_missing_and_additional_files_are_found(before: Digests, tmp_path: Path) -> None:
    make(tmp_path / "after")
    next((tmp_path / "after").rglob("scene.h5")).unlink()
    artifact(tmp_path / "after", "tiny/link_points/links.bin", b"links", "0123456789ab")
    found = compare(before, digests(tmp_path / "after")[0], {})
    assert found.only_before == [SCENE] and found.only_after == ["tiny/link_points/links.bin"]
    assert not found.is_same


def test_of_several_artifacts_of_one_name_each_counts(tmp_path: Path) -> None:
    for number, content in enumerate((b"seed 0", b"seed 1")):
        artifact(tmp_path / "two", MASKS, content, f"{number:012x}")
        artifact(tmp_path / "turned", MASKS, content, f"{7 - number:012x}")
        artifact(tmp_path / "twice", MASKS, b"seed 0", f"{number:012x}")
    two, turned, twice = (digests(tmp_path / name)[0] for name in ("two", "turned", "twice"))
    assert len(two[MASKS]) == 2 and compare(two, turned, {}).is_same
    assert compare(two, twice, {}).differing == [MASKS]


def test_renamed_files_are_compared_under_their_new_names(
    before: Digests, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = {"judge_teacher": "evaluate_teacher_2d", "judgement.npz": "teacher_2d.npz"}
    new = "tiny/evaluate_teacher_2d/0aa50a3b97/teacher_2d.npz"
    after = {(new if key == MASKS else key): values for key, values in before.items()}
    unnamed = compare(before, after, {})
    assert unnamed.only_before == [MASKS] and unnamed.only_after == [new]
    assert compare(before, after, names).is_same
    changed = compare(before, after | {new: ["0"]}, names)
    assert changed.differing == [new]
    monkeypatch.setattr(same_bytes, "RENAMED", {})
    assert make(tmp_path / "named")[PAGE] != before[PAGE]  # The row of the stage has its new name.


def test_nothing_to_compare_is_not_the_same() -> None:
    assert not compare({}, {}, {}).is_same


def test_the_command_compares_and_refuses(
    before: Digests,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(same_bytes, "RENAMED", {})
    one, two = tmp_path / "one.json", tmp_path / "two.json"
    one.write_text(json.dumps({"digests": before}))
    two.write_text(json.dumps({"digests": before | {SCENE: ["0"]}}))
    assert main(["compare", str(one), str(one)]) == 0
    assert "5 equal, 0 differing, 0 only before, 0 only after" in capsys.readouterr().out
    assert main(["compare", str(one), str(two)]) == 1
    assert f"differing: {SCENE}\n" in capsys.readouterr().out
    assert main(["compare", str(one), str(one), "--renamed", "scene.h5=points.h5"]) == 1
    assert "only before: tiny/prepare_scene/0aa50a3b97/points.h5" in capsys.readouterr().out
    two.write_text("[]")
    assert main(["compare", str(one), str(two)]) == 2
    assert f"{two}: expected a JSON object with an object 'digests'" in capsys.readouterr().err
    assert main(["compare", str(one), str(one), "--renamed", "scene.h5"]) == 2
    assert "expected OLD=NEW" in capsys.readouterr().err
    assert main(["record", str(two), "--runs", "demo,all"]) == 2
    assert "expected some of demo,own_scan,demo_search,ablation" in capsys.readouterr().err
    assert main(["record", str(two), "--checkout", str(tmp_path)]) == 2
    assert f"{tmp_path}: expected a checkout" in capsys.readouterr().err
