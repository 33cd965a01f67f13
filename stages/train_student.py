"""Stage: pseudo-labels of many scenes to one student network, new or one to be trained further.

Epochs end in checkpoints (``stages.checkpoint_pace``); a run that was killed goes on from the last
and, on the CPU, ends with the same bits as one that was not. Memory does not grow with the number
of scenes beyond a fixed budget of kept scenes.

Several processes share each batch's scenes (``stages.ranks``). What they learn is what one would,
but for rounding: random numbers depend on epoch and scene alone, losses are averaged over the
scenes of the whole batch and batch normalisation over its voxels. So a checkpoint can be taken up
by any number of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from pathlib import Path

from lightning_fabric import Fabric

from data.artifacts.student import write_model, write_state
from data.progress import Progress, silent
from data.training_scene import TrainingScene
from stages import ranks
from stages.checkpoint_pace import CheckpointPace
from stages.configs import StudentConfig
from stages.kept_memory import kept_memory
from stages.repeatable import repeatable
from stages.sample_loader import SampleLoader
from stages.student_config import check_processes
from stages.trainer import Trainer


def run(
    scenes: Sequence[TrainingScene],
    cfg: StudentConfig,
    work_dir: Path,
    device: str = "cpu",
    progress: Progress = silent,
    start: Path | None = None,
    processes: int = 1,
) -> None:
    """Train, or go on training, and write ``model.safetensors`` and its company.

    Args:
        scenes: read one at a time, whenever an index is asked for; pickled for more processes.
        cfg: everything that shapes the result.
        work_dir: holds ``state.pt`` and ``metrics.jsonl`` from the first epoch on.
        device: "cpu" or "cuda[:i]"; float16 where it helps on CUDA.
        progress: called with (steps done, steps in all).
        start: a finished student whose network and weights to start from.
        processes: how many share each batch's scenes, on CUDA one a GPU; 1 works in this one.

    Raises:
        ConfigError: fewer than one process, or more than scenes in a batch or GPUs.
        UserError: no scene, no labelled query, tokens of different lengths, no such device, the
            wrong spconv, a start that does not fit, or, where the last checkpoint stays, a loss
            that is not finite or one of several processes killed.
        ArtifactError: the checkpoint is damaged or of another run; the start is damaged.
    """
    check_processes(cfg, processes)
    ranks.check_device(device, processes)
    ranks.run(_train, (scenes, cfg, work_dir, start), device, processes, progress)


def _train(
    fabric: Fabric,
    progress: Progress,
    scenes: Sequence[TrainingScene],
    cfg: StudentConfig,
    work_dir: Path,
    start: Path | None,
) -> None:
    """What each process does; the first alone writes files."""
    with repeatable(), kept_memory():
        fabric.launch()
        loader = SampleLoader(scenes, cfg, fabric.global_rank, fabric.world_size)
        trainer = Trainer(cfg, loader, fabric, start)
        log = trainer.resume(work_dir)
        steps = math.ceil(len(loader.usable) / cfg.batch_scenes)
        pace = CheckpointPace()
        for epoch in range(len(log), cfg.epochs):
            trainer.mend_labels(epoch)
            began = time.monotonic()
            parts: list[dict[str, float]] = []
            for step, share in enumerate(loader.epoch(epoch, trainer.prepare)):
                done = epoch * steps + step
                parts.append(trainer.step(share, done, cfg.epochs * steps, epoch))
                progress(done + 1, cfg.epochs * steps)
            means = {name: sum(part[name] for part in parts) / len(parts) for name in parts[0]}
            seconds = round(time.monotonic() - began, 3)
            log.append({"epoch": epoch + 1, **means, "seconds": seconds})
            if fabric.is_global_zero and (pace.due() or epoch + 1 == cfg.epochs):
                with pace.written():
                    write_state(work_dir, trainer.state(), log)
        if fabric.is_global_zero:
            write_model(work_dir, trainer.model.state_dict(), trainer.description)
