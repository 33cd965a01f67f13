"""Luigi tasks that run the stages: ``luigi --module pipeline RunAll --scene-set demo``.

In: a scene set, a config and overrides. Out: artifacts below ``$MLLM3D_OUTPUT``, and copies of the
latest results beside them. Each declared step (``pipeline.steps``) is a task.
"""

from pipeline.import_path import put_project_first

# Before any other import: the current folder may hold packages with names of ours.
put_project_first()

from pipeline.workers import worker

# Before any task is imported: Luigi reads its defaults when tasks are defined.
worker.install()

from pipeline.steps import STEPS
from pipeline.tasks.ablation import (
    Ablation,
    AblationReport,
    ErrorCurves,
    MeasureArms,
    MeasureErrorCurves,
)
from pipeline.tasks.class_embeddings import EmbedClasses
from pipeline.tasks.conversion import ConvertReason3D, PreprocessScannetpp
from pipeline.tasks.nano import NanoPictures, NanoTraining, TrainNanoTeacher
from pipeline.tasks.shards import CacheTeacherMasks
from pipeline.tasks.steps import RunAll, task_of
from pipeline.tasks.transfer import EvaluateZeroShot, Finetune

STEP_TASKS = {step.task_name: task_of(step) for step in STEPS.values() if step.make}
"""The task class of each declared step, by its name on the command line."""

__all__ = (
    "STEP_TASKS",
    "Ablation",
    "AblationReport",
    "CacheTeacherMasks",
    "ConvertReason3D",
    "EmbedClasses",
    "ErrorCurves",
    "EvaluateZeroShot",
    "Finetune",
    "MeasureArms",
    "MeasureErrorCurves",
    "NanoPictures",
    "NanoTraining",
    "PreprocessScannetpp",
    "RunAll",
    "TrainNanoTeacher",
)
