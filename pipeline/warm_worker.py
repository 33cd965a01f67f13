"""Luigi's worker, with what a task's stage imports imported before the task is forked.

Luigi runs each task in a process of its own. Without this every one of them imports torch,
transformers or Open3D anew, seconds for a task that may work for one.
"""

from __future__ import annotations

from typing import Any

import luigi
from luigi import worker

from pipeline import process


class WarmWorker(worker.Worker):
    """A worker whose tasks find in memory what their stage imports.

    The first task of a stage waits for the imports, as it would in its own process; later ones
    start at once. A run that has nothing to do imports nothing.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._warm: set[tuple[str, str, str]] = set()

    def _create_task_process(self, task: luigi.Task) -> Any:
        settings = (getattr(task, "config", ""), getattr(task, "overrides", ""))
        kind = (task.task_family, *settings)
        preload = getattr(task, "preload", None)
        if preload is not None and kind not in self._warm:
            self._warm.add(kind)
            process.prepare_imports(self.worker_processes)
            preload()
        return super()._create_task_process(task)
