"""A store that fails, damages or refuses: what is tried again, and what is told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import fsspec.config
import numpy as np
import pytest
from botocore.retries.standard import ExponentialBackoff

from data.artifacts.cleanup import check_remote_artifact, remote_artifacts_below
from data.artifacts.object_store import RemoteFolder
from data.artifacts.store import METADATA, is_complete, read_metadata
from data.artifacts.teacher import read_teacher
from data.errors import ArtifactError, UserError
from pipeline.__main__ import main
from tests.support.cli import REPOSITORY, environment
from tests.support.faulty_store import CACHE, Fault, FaultyStore
from tests.support.remote_world import QUICK, fill, key_at, prefix

PLAN = ["plan", "--scene-set", "demo"]


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts botocore waits a tenth of what it would: a second and more."""
    usual = ExponentialBackoff.delay_amount
    monkeypatch.setattr(ExponentialBackoff, "delay_amount", lambda *told: usual(*told) / 10)


@pytest.mark.parametrize("status", [500, 503, "drop"])
def test_puts_and_gets_that_fail_once_are_tried_again(
    store: FaultyStore, tmp_path: Path, status: int | str
) -> None:
    key = key_at(tmp_path)
    store.faults += [
        Fault("PUT", r"views/c/2", status, times=1),
        Fault("PUT", r"metadata.json", status, times=1),
        Fault("GET", r"views/c/4", status, times=1),
    ]
    fill(key)
    read_teacher(key.place)
    assert [fault.times for fault in store.faults] == [0, 0, 0]
    assert len(store.paths("PUT", r"views/c/2")) == 2
    assert check_remote_artifact(RemoteFolder(str(key.place)), lambda: None) == []


@pytest.mark.parametrize("name", ["views/c/2", METADATA, ".holder"])
def test_a_put_that_fails_for_good_is_told_once_by_its_name_and_a_rerun_goes_on(
    store: FaultyStore, tmp_path: Path, name: str
) -> None:
    key = key_at(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        fill(key, views=2)
    store.faults.append(Fault("PUT", name, 500))
    with pytest.raises(UserError, match="could not be written") as told:
        fill(key)
    text = str(told.value)
    assert f"{key.place}" in text and name in text and "run the same command again" in text
    assert not is_complete(key) and read_metadata(key.place) is None
    store.faults.clear()
    todo = {"views/c/2": [2, 3, 4], METADATA: []}
    assert fill(key) == todo.get(name, [2, 3, 4])
    assert (
        is_complete(key) and check_remote_artifact(RemoteFolder(str(key.place)), lambda: None) == []
    )


def test_a_slow_read_is_waited_for_and_one_slower_than_the_limit_is_told(
    store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_at(tmp_path)
    fill(key)
    once = {"read_timeout": 1, "retries": {"mode": "standard", "max_attempts": 1}}
    monkeypatch.setitem(fsspec.config.conf, "s3", {"config_kwargs": once})
    store.faults.append(Fault("GET", r"views/c/1", seconds=0.5, times=1))
    cache = read_teacher(key.place)
    assert np.isfinite(cache.mask_logits(1)).all() and store.faults[0].times == 0
    store.faults.append(Fault("GET", r"views/c/3", seconds=1.5))
    with pytest.raises(UserError, match=r"views/c/3: could not be read .*[Tt]imeout"):
        read_teacher(key.place)
    store.faults.clear()
    assert np.isfinite(read_teacher(key.place).mask_logits(3)).all()


@pytest.mark.parametrize("harm", ["gone", "short", "other", "metadata"])
def test_damaged_objects_are_named_by_reading_and_by_verify(
    store: FaultyStore, tmp_path: Path, harm: str
) -> None:
    key = key_at(tmp_path)
    fill(key)
    folder = RemoteFolder(str(key.place))
    name = METADATA if harm == "metadata" else "teacher.zarr/views/c/0"
    path, good = f"{prefix(key)}/{name}", store.get(f"{prefix(key)}/{name}")
    bad = {"short": good[:-1], "other": good[:-1] + bytes([good[-1] ^ 1]), "metadata": good[:90]}
    store.delete(path) if harm == "gone" else store.put(path, bad[harm])
    with pytest.raises(ArtifactError) as told:
        read_teacher(folder)
    assert f"{folder}{'' if harm == 'metadata' else f'/{name}'}: expected" in str(told.value)
    findings = check_remote_artifact(folder, lambda: None)
    assert [str(one.path) for one in findings] == [f"{folder}/{name}"]
    store.put(path, good)
    store.put(f"{prefix(key)}/teacher.zarr/more", b"1")
    (extra,) = check_remote_artifact(folder, lambda: None)
    assert extra.is_extra and str(extra.path).endswith("/more")
    read_teacher(folder)
    found = remote_artifacts_below(RemoteFolder(CACHE))
    assert [str(one) for one in found.finished] == [str(folder)] and found.unfinished == ()
    store.delete(f"{prefix(key)}/{METADATA}")
    assert remote_artifacts_below(RemoteFolder(CACHE)).unfinished == (folder,)


def test_an_object_put_again_with_the_same_bytes_under_another_tag_is_no_damage(
    store: FaultyStore, tmp_path: Path
) -> None:
    key = key_at(tmp_path)
    fill(key)
    path = f"{prefix(key)}/{METADATA}"
    content = json.loads(store.get(path))
    del content["checksum"]
    for entry in content["files"].values():
        entry["tag"] = "of another bucket"
    store.put(path, json.dumps(content).encode())
    read_teacher(key.place)


@pytest.mark.parametrize(
    ("cache", "change", "expected"),
    [
        ("s3://no-such-bucket/runs", {}, "found no bucket 'no-such-bucket'"),
        (CACHE, {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_PROFILE"),
        (CACHE, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "could not be reached"),
        (CACHE, {"PYTHONPATH": "without"}, "pip install s3fs"),
    ],
)
def test_what_is_wrong_with_the_store_is_told_before_anything_is_made(
    store: FaultyStore, tmp_path: Path, cache: str, change: dict[str, str], expected: str
) -> None:
    """In a separate process, which must end without further output."""
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / "s3fs.py").write_text("raise ImportError('no module named s3fs')\n")
    told = {
        **store.environment(),
        "MLLM3D_CACHE": cache,
        "FSSPEC_S3": json.dumps({"config_kwargs": QUICK}),
        **change,
    }
    path = os.pathsep.join([str(tmp_path / change.get("PYTHONPATH", "")), str(REPOSITORY)])
    env = environment(tmp_path / "output", **{**told, "PYTHONPATH": path})
    line: list[Any] = [sys.executable, "-m", "pipeline", *PLAN]
    done = subprocess.run(
        line,
        cwd=tmp_path,
        env={k: v for k, v in env.items() if v},
        capture_output=True,
        text=True,
        check=False,
    )
    check_refused(done.returncode, done.stdout, done.stderr, expected)
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize(
    ("cache", "expected"),
    [
        ("caches/runs", "expected an address such as s3://bucket/prefix"),
        ("gs://bucket/runs", "gs:// needs a driver of fsspec that is not installed"),
        ("nonsense://bucket", "MLLM3D_CACHE: nonsense://bucket: Protocol not known"),
    ],
)
def test_an_address_that_no_driver_takes_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cache: str,
    expected: str,
) -> None:
    monkeypatch.setenv("MLLM3D_CACHE", cache)
    code = main(PLAN)
    check_refused(code, *capsys.readouterr(), expected)
    assert not (tmp_path / "output").exists()


def check_refused(code: int, out: str, err: str, expected: str) -> None:
    """A mistake of the user, told in one line and nothing else."""
    assert code == 2 and out == ""
    assert expected in err and err.count("\n") == 1 and len(err) < 600
