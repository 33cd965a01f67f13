"""Store: fingerprints, completeness, and what killed or rival writers leave behind."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.artifacts import metadata as record
from data.artifacts import store
from data.artifacts.metadata import WRITER_FILE
from data.artifacts.store import ArtifactKey, canonical_json, fingerprint, is_complete, writing
from data.errors import ArtifactError
from tests.support.warm import forkserver

CONFIG = {"lr": 0.1, "layers": [1, 2], "name": "a"}
INPUTS = {"scene": "1" * 64}
OTHER = forkserver()
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def key_in(root: Path, **config: Any) -> ArtifactKey:
    return ArtifactKey.make(root, "stage", 1, {**CONFIG, **config}, INPUTS, "scene0")


def test_a_fingerprint_is_what_it_was_when_caches_were_made() -> None:
    # SHA-256 of the canonical JSON, from an independent tool; a change orphans every cache.
    text = (
        '{"config":{"layers":[1,2],"lr":0.1,"name":"a"},"inputs":{"scene":"' + "1" * 64 + '"},'
        '"schema_version":1,"stage":"stage"}'
    )
    identity = {"stage": "stage", "schema_version": 1, "config": CONFIG, "inputs": INPUTS}
    assert canonical_json(identity) == text
    assert (
        fingerprint("stage", 1, CONFIG, INPUTS)
        == "2da699e8aa953ca270aa539f9c4c09bb8e313c55ca81169d5ab5fd441ce8ead8"
    )


def test_everything_that_matters_changes_a_fingerprint() -> None:
    base = fingerprint("stage", 1, CONFIG, INPUTS)
    others = [
        fingerprint("other", 1, CONFIG, INPUTS),
        fingerprint("stage", 2, CONFIG, INPUTS),
        fingerprint("stage", 1, {**CONFIG, "lr": 0.2}, INPUTS),
        fingerprint("stage", 1, {**CONFIG, "layers": [2, 1]}, INPUTS),
        fingerprint("stage", 1, CONFIG, {"scene": "2" * 64}),
        fingerprint("stage", 1, CONFIG, {**INPUTS, "links": "2" * 64}),
    ]
    assert len({base, *others}) == 7


@given(st.dictionaries(st.text(), json_values, max_size=5))
def test_the_order_of_keys_never_matters(config: dict[str, Any]) -> None:
    reverse = dict(reversed(list(config.items())))
    assert fingerprint("s", 1, config, {}) == fingerprint("s", 1, reverse, {})
    assert json.loads(canonical_json(config)) == config


def test_the_folder_tells_stage_scene_and_fingerprint(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    assert key.folder == tmp_path / "stage" / "scene0" / key.fingerprint[:12]
    assert ArtifactKey.make(tmp_path, "s", 1, {}, {}).folder.parent == tmp_path / "s"


def write(key: ArtifactKey, text: str = "content") -> bool:
    with writing(key) as folder:
        if folder is None:
            return False
        (folder / "part").mkdir()
        (folder / "part" / "file.txt").write_text(text)
    return True


def test_metadata_tells_the_whole_story(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    assert write(key) and is_complete(key)
    content = store.read_metadata(key.folder)
    assert content is not None
    assert content["config"] == CONFIG and content["inputs"] == INPUTS
    assert content["fingerprint"] == key.fingerprint and content["schema_version"] == 1
    assert content["wall_seconds"] >= 0 and content["peak_memory_mb"] > 0
    assert "numpy" in content["packages"] and content["host"]
    entry = content["files"]["part/file.txt"]
    assert entry["bytes"] == 7 and entry["sha256"] == store.sha256_of(key.folder / "part/file.txt")


def test_memory_counts_the_processes_that_a_stage_started(tmp_path: Path) -> None:
    before, after = key_in(tmp_path / "before"), key_in(tmp_path / "after")
    write(before)
    first = store.read_metadata(before.folder)
    assert first is not None
    most = first["peak_memory_mb"] + 200
    with writing(after):
        subprocess.run([sys.executable, "-c", f"bytearray(b'x') * {most * 2**20}"], check=True)
    second = store.read_metadata(after.folder)
    assert second is not None and second["peak_memory_mb"] >= most


def test_an_artifact_is_complete_only_after_the_last_line(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    with writing(key) as folder:
        assert folder is not None
        (folder / "a").write_text("x")
        assert not is_complete(key)
        with pytest.raises(ArtifactError, match="Run it"):
            store.require_complete(folder, "Run it.")
    assert is_complete(key)
    store.require_complete(key.folder, "Run it.")


def test_a_body_that_raises_leaves_nothing_complete(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    with pytest.raises(RuntimeError):
        with writing(key) as folder:
            assert folder is not None
            (folder / "half").write_text("x")
            raise RuntimeError
    assert not is_complete(key)
    assert write(key) and is_complete(key)
    assert not (key.folder / "half").exists()


def test_the_second_writer_does_nothing(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    assert write(key, "first")
    assert not write(key, "second")
    assert (key.folder / "part/file.txt").read_text() == "first"


def test_two_configs_live_side_by_side(tmp_path: Path) -> None:
    assert write(key_in(tmp_path)) and write(key_in(tmp_path, lr=0.2))
    assert is_complete(key_in(tmp_path)) and is_complete(key_in(tmp_path, lr=0.2))


@pytest.mark.parametrize("damage", ["truncate", "delete", "metadata", "foreign"])
def test_damage_makes_an_artifact_incomplete_and_it_is_made_again(
    tmp_path: Path, damage: str
) -> None:
    key = key_in(tmp_path)
    write(key)
    file, metadata = key.folder / "part/file.txt", key.folder / store.METADATA
    if damage == "truncate":
        os.truncate(file, 3)
    elif damage == "delete":
        file.unlink()
    elif damage == "metadata":
        os.truncate(metadata, 50)
    else:
        content = json.loads(metadata.read_text())
        metadata.write_text(json.dumps({**content, "fingerprint": "0" * 64}))
    assert not is_complete(key)
    assert write(key, "again") and is_complete(key)


def test_a_resumable_stage_finds_its_earlier_files(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    with pytest.raises(RuntimeError):
        with writing(key, resumable=True) as folder:
            assert folder is not None
            (folder / "view0").write_text("done")
            (folder / ".metadata.json.7.tmp").write_text("half, by one that was killed")
            raise RuntimeError
    with writing(key, resumable=True) as folder:
        assert folder is not None
        assert (folder / "view0").read_text() == "done"
    assert is_complete(key) and not list(key.folder.glob(".*.tmp"))


def test_text_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    store.write_text_atomic(path, "old")
    store.write_text_atomic(path, "new")
    assert path.read_text() == "new" and list(tmp_path.iterdir()) == [path]


def slow_write(key: ArtifactKey, seconds: float) -> None:
    """Note each start in a file beside the artifact, then take a while."""
    with writing(key) as folder:
        if folder is None:
            return
        with open(key.folder.parent / "starts", "a") as stream:
            stream.write(f"{os.getpid()}\n")
        (folder / "half").write_text("x")
        time.sleep(seconds)
        (folder / "whole").write_text("x")


def starts(key: ArtifactKey) -> list[str]:
    path = key.folder.parent / "starts"
    return path.read_text().split() if path.exists() else []


def test_of_two_processes_one_computes(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    processes = [OTHER.Process(target=slow_write, args=(key, 0.3)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(starts(key)) == 1 and is_complete(key)


def test_a_killed_writer_leaves_an_incomplete_folder_and_no_lock(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    process = OTHER.Process(target=slow_write, args=(key, 60.0))
    process.start()
    deadline = time.monotonic() + 30
    while not (key.folder / "half").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join(30)
    assert (key.folder / "half").exists() and not is_complete(key)
    slow_write(key, 0.0)
    assert is_complete(key) and len(starts(key)) == 2


@pytest.mark.parametrize("is_late", [True, False], ids=["rival still writes", "rival is done"])
def test_a_writer_whose_folder_was_taken_over_never_seals_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_late: bool
) -> None:
    # A lock that two hosts hold at once, as after a network disk gave up on one of them.
    monkeypatch.setattr(store, "FileLock", lambda _: contextlib.nullcontext())
    key = key_in(tmp_path)
    lost, rival = writing(key), writing(key)
    folder = lost.__enter__()
    assert folder is not None
    (folder / "file.txt").write_text("from the lost host")
    monkeypatch.setattr(platform, "node", lambda: "rival")
    assert rival.__enter__() == folder
    (folder / "file.txt").write_text("half")
    if not is_late:
        (folder / "file.txt").write_text("whole")
        rival.__exit__(None, None, None)
    with pytest.raises(ArtifactError, match="took it over"):
        lost.__exit__(None, None, None)
    assert is_complete(key) is not is_late
    if is_late:
        (folder / "file.txt").write_text("whole")
        rival.__exit__(None, None, None)
    assert is_complete(key) and (folder / "file.txt").read_text() == "whole"
    content = store.read_metadata(folder)
    assert content is not None and content["host"] == "rival"
    assert not list(folder.glob(f"{WRITER_FILE}*"))
    store.check_files(folder, "")


def test_reading_refuses_other_content_of_the_same_size_and_names_the_file(tmp_path: Path) -> None:
    key = key_in(tmp_path)
    write(key)
    store.require_complete(key.folder, "Run it.")
    file = key.folder / "part/file.txt"
    file.write_text("konTent")
    with pytest.raises(ArtifactError, match=r"file\.txt: .*verify .* --remove. Then: Run it\."):
        store.require_complete(key.folder, "Run it.")
    file.write_text("content")
    store.require_complete(key.folder, "Run it.")
    file.unlink()
    with pytest.raises(ArtifactError, match=r"file\.txt: .*found none"):
        store.check_files(key.folder, "Run it.")


def test_a_file_is_hashed_once_until_it_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_in(tmp_path)
    write(key)
    hashed: list[Path] = []
    digest = record.sha256_of

    def noted(path: Path) -> str:
        hashed.append(path)
        return digest(path)

    monkeypatch.setattr(record, "sha256_of", noted)
    for _ in range(3):
        store.require_complete(key.folder, "Run it.")
    assert len(hashed) == 1
    os.utime(key.folder / "part/file.txt", (1, 1))
    store.require_complete(key.folder, "Run it.")
    assert len(hashed) == 2


def test_of_large_artifacts_the_smallest_files_are_checked_and_all_sizes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = key_in(tmp_path)
    with writing(key) as folder:
        assert folder is not None
        (folder / "large").write_bytes(bytes(90))
        (folder / "small").write_bytes(bytes(10))
    monkeypatch.setattr(record, "CHECKED_ON_READ", 50)
    (key.folder / "large").write_bytes(b"1" * 90)
    store.require_complete(key.folder, "Run it.")
    (key.folder / "small").write_bytes(b"1" * 10)
    with pytest.raises(ArtifactError, match="small"):
        store.require_complete(key.folder, "Run it.")
    (key.folder / "small").write_bytes(bytes(10))
    os.truncate(key.folder / "large", 80)
    with pytest.raises(ArtifactError, match="large: expected the 90 bytes written, found 80"):
        store.require_complete(key.folder, "Run it.")


@pytest.mark.parametrize("damage", ['"wall_seconds": 9', '"files": []', '"files": {"a": 1}'])
def test_damaged_metadata_is_none_at_all(tmp_path: Path, damage: str) -> None:
    key = key_in(tmp_path)
    write(key)
    path = key.folder / store.METADATA
    path.write_text(path.read_text().rstrip()[:-1] + f", {damage}}}")  # The last of two counts.
    assert store.read_metadata(key.folder) is None and not is_complete(key)


@pytest.mark.parametrize("files", [[], {"a": 1}, {"a": {"bytes": "many"}}])
def test_earlier_metadata_without_a_checksum_is_taken_unless_it_makes_no_sense(
    tmp_path: Path, files: object
) -> None:
    key = key_in(tmp_path)
    key.folder.mkdir(parents=True)
    path = key.folder / store.METADATA
    path.write_text(json.dumps({"fingerprint": key.fingerprint, "files": {}}))
    assert is_complete(key)
    path.write_text(json.dumps({"fingerprint": key.fingerprint, "files": files}))
    assert not is_complete(key)
