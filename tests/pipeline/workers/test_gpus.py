"""One process per GPU: which GPUs there are, who holds which, and what a task sees of them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data.errors import UserError
from pipeline.process import slots
from pipeline.steps import STEPS
from pipeline.tasks.shards import CacheTeacherMasks
from pipeline.tasks.steps import task_of
from tests.support.cli import environment


@pytest.fixture(autouse=True)
def own_slots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in (slots.VISIBLE, "SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)


def devices(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


def test_gpus_are_counted_by_their_device_files(tmp_path: Path) -> None:
    assert slots.visible_gpus(devices(tmp_path / "a", "null", "nvidiactl", "nvidia-uvm")) == []
    assert slots.visible_gpus(devices(tmp_path / "b", "nvidia3", "nvidia0", "nvidiactl")) == [
        "0",
        "1",
    ]
    assert slots.visible_gpus(devices(tmp_path / "c", "dxg")) == ["0"]


@pytest.mark.parametrize(
    ("told", "names"),
    [
        ("", []),
        ("-1", []),
        ("2, 5", ["2", "5"]),
        ("1,-1,0", ["1"]),
        ("GPU-8a, MIG-1/2", ["GPU-8a", "MIG-1/2"]),
    ],
)
def test_a_choice_that_was_made_is_kept(
    told: str, names: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(slots.VISIBLE, told)
    assert slots.visible_gpus() == names
    assert slots.gpus_needed("auto") == bool(names) and slots.gpus_needed("cpu") == 0


def test_each_takes_another_gpu_and_gives_it_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.VISIBLE, "4,7,9")
    with slots.hold_gpus(1):
        assert os.environ[slots.VISIBLE] == "4"
        monkeypatch.setenv(slots.VISIBLE, "4,7,9")
        with slots.hold_gpus(2):
            assert os.environ[slots.VISIBLE] == "7,9"
    assert os.environ[slots.VISIBLE] == "4,7,9"
    with slots.hold_gpus(0):
        assert os.environ[slots.VISIBLE] == "4,7,9"
    with pytest.raises(UserError, match=r"expected 4 GPUs, found 3 .* \(CUDA_.*=4,7,9\)"):
        with slots.hold_gpus(4):
            pass


HOLDER = """
import os, sys, time
from pipeline.process import slots
with slots.hold_gpus(1):
    print(os.environ[slots.VISIBLE], flush=True)
    time.sleep(600)
"""


def test_who_comes_too_late_waits_and_a_kill_frees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = environment(tmp_path / "output", CUDA_VISIBLE_DEVICES="0,1", TMPDIR=str(tmp_path))
    line = [sys.executable, "-c", HOLDER]
    held = [subprocess.Popen(line, env=env, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    seen = [one.stdout.readline().strip() for one in held if one.stdout is not None]
    assert sorted(seen) == ["0", "1"]
    monkeypatch.setenv(slots.VISIBLE, "0,1")
    waiting = multiprocessing.get_context("fork").Process(target=_take_both)
    waiting.start()
    held[0].send_signal(signal.SIGKILL)
    time.sleep(2 * slots._WAIT)
    assert waiting.is_alive()  # One of two is not enough, and is not held meanwhile.
    with slots.hold_gpus(1):
        assert os.environ[slots.VISIBLE] == seen[0]
    held[1].send_signal(signal.SIGKILL)
    waiting.join(timeout=60)
    assert waiting.exitcode == 0
    for one in held:
        one.wait()
        if one.stdout is not None:
            one.stdout.close()


def _take_both() -> None:
    with slots.hold_gpus(2):
        assert os.environ[slots.VISIBLE] == "0,1"


def test_each_slurm_job_has_gpus_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slurm numbers each job's GPUs from 0 where it fences them in."""
    folders = {slots.slots_folder()}
    for job, element in (("7", None), ("8", None), ("8", "1")):
        monkeypatch.setenv("SLURM_JOB_ID", job)
        if element is not None:
            monkeypatch.setenv("SLURM_ARRAY_TASK_ID", element)
        folders.add(slots.slots_folder())
    assert len(folders) == 4


def test_luigi_starts_no_more_tasks_than_there_are_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.VISIBLE, "0,1")
    name, scene = (
        slots.gpu_resource(),
        task_of(STEPS["predict_masks"])(scene_set="demo").plan.scenes("val")[0],
    )
    one = {name: 1}
    assert task_of(STEPS["predict_masks"])(scene_set="demo", scene=scene).process_resources() == one
    assert task_of(STEPS["link_points"])(scene_set="demo", scene=scene).process_resources() == one
    assert task_of(STEPS["run_teacher"])(scene_set="demo", scene=scene).process_resources() == one
    assert CacheTeacherMasks(scene_set="demo").process_resources() == one
    big = "teacher.name=lisa,teacher.lisa.weights=a/b"
    assert (
        task_of(STEPS["run_teacher"])(
            scene_set="demo", overrides=big, scene=scene
        ).process_resources()
        == one
    )
    for task in (
        task_of(STEPS["predict_masks"])(scene_set="demo"),
        task_of(STEPS["predict_masks"])(scene_set="demo", scene=scene, device="cpu"),
        task_of(STEPS["run_teacher"])(
            scene_set="demo", scene=scene, overrides="teacher.name=oracle"
        ),
        task_of(STEPS["prepare_scene"])(scene_set="demo", scene=scene),
    ):
        assert task.process_resources() == {}
    code = f"import pipeline, luigi; print(luigi.configuration.get_config()['resources']['{name}'])"
    told = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(Path("output"), CUDA_VISIBLE_DEVICES="3,4,5"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.strip() == "3"


def test_training_takes_a_gpu_for_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(slots.VISIBLE, "0,1")
    asked = {"scene_set": "demo", "train_processes": 2}
    assert task_of(STEPS["train_student"])(**asked).process_resources() == {slots.gpu_resource(): 2}
    # More than there are would wait for ever; the task itself refuses them.
    monkeypatch.setenv(slots.VISIBLE, "0")
    assert task_of(STEPS["train_student"])(**asked).process_resources() == {slots.gpu_resource(): 1}
    assert task_of(STEPS["train_student"])(**asked).num_gpus() == 2
    # A central scheduler knows no hosts.
    monkeypatch.setattr("pipeline.process.process.is_central", lambda: True)
    assert task_of(STEPS["train_student"])(**asked).process_resources() == {}
