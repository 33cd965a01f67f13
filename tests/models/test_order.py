"""In which order a run's tasks are handed out to its workers."""

from __future__ import annotations

from pathlib import Path

import luigi
import pytest
from luigi import scheduler, worker

import pipeline

_SET = """
generated: true
splits: {train: nvs_sem_train, val: nvs_sem_val}
queries: {train: queries/train.json, val: queries/val.json}
config:
  generate: {train_rooms: 3, val_rooms: 3}
"""


def _handed_out(task: luigi.Task) -> list[str]:
    """Task ids in the order in which a worker gets them, each done before the next."""
    state = scheduler.Scheduler()
    asking = worker.Worker(scheduler=state, worker_id="one")
    asking.add(task)
    order: list[str] = []
    while (given := state.get_work(worker="one")["task_id"]) is not None:
        order.append(given)
        state.add_task(task_id=given, worker="one", status="DONE")
    return order


def test_what_the_student_needs_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    path = tmp_path / "rooms.yaml"
    path.write_text(_SET)
    order = _handed_out(pipeline.RunAll(scene_set=str(path)))
    training = order.index(pipeline.STEP_TASKS["TrainStudent"](scene_set=str(path)).task_id)
    before = {task_id.split("_")[0] for task_id in order[:training]}
    after = [task_id.split("_")[0] for task_id in order[training:]]
    assert before >= {"GenerateRoom", "PrepareScene", "LinkPoints", "RunTeacher", "FuseMasks"}
    assert "EvaluateTeacher2D" not in before
    for stage in ("PrepareScene", "LinkPoints", "RunTeacher", "FuseMasks"):
        assert after.count(stage) == 3, f"{stage} of validation scenes"
    assert order[-1].startswith("RunAll")
