"""Luigi's worker beside workers on other hosts, all asking one luigid for tasks.

With the scheduler inside the process it is ``WarmWorker`` and no more. With a central one it
also waits for what other hosts work on, announces its tasks again when the scheduler may have
forgotten them, and counts as done what others did.
"""

from __future__ import annotations

import json
import logging
from typing import Any

from luigi.task_status import DISABLED, DONE, FAILED, RUNNING
from luigi.worker import GetWorkResponse

from pipeline.patient_scheduler import PatientScheduler
from pipeline.warm_worker import WarmWorker

_LOG = logging.getLogger("luigi-interface.worker")


class SharedWorker(WarmWorker):
    """A worker that may be one of several."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._failed: set[str] = set()
        self._central = self._scheduler if isinstance(self._scheduler, PatientScheduler) else None

    def _add_task(self, *args: Any, **kwargs: Any) -> None:
        """Tell the scheduler a task's state; a failure is told as one that nobody tries again.

        luigid counts a task that failed and one whose worker was lost alike, and would try a
        user's mistake ``retry_count`` times, then refuse it for ``disable_persist`` seconds even
        when it was mended. A worker's own DISABLED holds until a command asks for the task.
        """
        task_id = kwargs["task_id"]
        task = self._scheduled_tasks.get(task_id)
        has_failed = self._central is not None and kwargs["status"] == FAILED
        if has_failed and task is not None and task.complete():
            # Another host was given it when this one seemed dead, and was faster.
            kwargs["status"], has_failed = DONE, False
        super()._add_task(*args, **kwargs)
        if has_failed:
            self._failed.add(task_id)
            self._disable(task_id, kwargs.get("expl"))
        else:
            self._failed.discard(task_id)

    def _disable(self, task_id: str, reason: str | None) -> None:
        self._scheduler.add_task(
            worker=self._id, task_id=task_id, status=DISABLED, runnable=False, expl=reason
        )

    def _get_work(self) -> GetWorkResponse:
        work: GetWorkResponse = super()._get_work()
        central = self._central
        if central is None or not (central.was_away() or self._seems_forgotten(work)):
            return work
        self._announce_again()
        if work.task_id is None:
            work = super()._get_work()
        return work

    def _seems_forgotten(self, work: GetWorkResponse) -> bool:
        """Whether the scheduler knows of nothing to wait for, though the goal is not reached."""
        is_idle = work.task_id is None and not work.n_pending_tasks and not work.running_tasks
        if not is_idle or self._running_tasks or self._first_task not in self._scheduled_tasks:
            return False
        goal = self._scheduled_tasks[self._first_task]
        return not (goal.complete() or self._failed or self._failed_elsewhere())

    def _announce_again(self) -> None:
        """Have the scheduler know again what this worker wants, does, and saw failing."""
        self._scheduler.add_worker(self._id, self._worker_info)
        failed = set(self._failed)
        for task_id in self._running_tasks:
            # First, lest another host be given it; one that another finished stays finished.
            if not self._scheduled_tasks[task_id].complete():
                self._scheduler.add_task(worker=self._id, task_id=task_id, status=RUNNING)
        self.add(self._scheduled_tasks[self._first_task])
        for task_id in failed:
            self._failed.add(task_id)
            self._disable(task_id, None)

    def _keep_alive(self, get_work_response: GetWorkResponse) -> bool:
        """Stay also while another host is at the last task: it may be lost with it."""
        is_awaited = bool(self._central and self._config.keep_alive)
        is_awaited = is_awaited and bool(get_work_response.running_tasks)
        return is_awaited or bool(super()._keep_alive(get_work_response))

    def _settle(self) -> None:
        if self._central is not None:
            self._count_what_others_did()

    def _count_what_others_did(self) -> None:
        """Have summary and exit code tell of the work, whoever did it.

        Luigi says of tasks that other workers did that they "were being run by another worker".
        """
        done = {task.task_id for task, status, _ in self._add_task_history if status == DONE}
        left = [task for task_id, task in self._scheduled_tasks.items() if task_id not in done]
        others = [task for task in left if task.complete()]
        self._add_task_history += [(task, DONE, False) for task in others]
        done |= {task.task_id for task in others}
        for answer in self._get_work_response_history:
            running = answer["running_tasks"]
            answer["running_tasks"] = [one for one in running if one["task_id"] not in done]
        for task in others:
            self._tally.note(task, DONE)
        if others:
            _LOG.info("%d tasks were done by other workers.", len(others))
        for task_id, reason in self._failed_elsewhere().items():
            _LOG.error("%s failed in another worker:\n  %s", task_id, reason)
            self._add_task_history.append((self._scheduled_tasks[task_id], FAILED, False))
            self._tally.note(self._scheduled_tasks[task_id], FAILED, reason)

    def _failed_elsewhere(self) -> dict[str, str]:
        """Why tasks that this worker waited for failed in others, by task."""
        listed = self._scheduler.task_list(status=DISABLED, upstream_status="", limit=False)
        known = [one for one in listed if one in self._scheduled_tasks and one not in self._failed]
        return {one: _last_words(self._scheduler.fetch_error(one)["error"]) for one in known}


def _last_words(told: str | None) -> str:
    """A user's mistake as it was told; of a traceback the last line."""
    try:
        text = str(json.loads(told or '""'))
    except ValueError:
        text = str(told)
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1] if "Traceback (most recent call last):" in lines else "\n  ".join(lines)
