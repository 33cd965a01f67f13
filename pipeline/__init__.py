"""Luigi tasks over the stages: ``luigi --module pipeline RunAll --scene-set demo``."""

from pipeline import luigi_setup

luigi_setup.install()

from pipeline.nano import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    NanoPictures,
    NanoTraining,
    TrainNanoTeacher,
)
from pipeline.tasks import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    Evaluate,
    FuseMasks,
    GenerateRoom,
    GenerateRooms,
    JudgeTeacher,
    LinkPoints,
    PredictMasks,
    PreparePrompts,
    PrepareScene,
    Report,
    RunAll,
    RunTeacher,
    TrainStudent,
)

__all__ = [
    "Evaluate",
    "FuseMasks",
    "GenerateRoom",
    "GenerateRooms",
    "JudgeTeacher",
    "LinkPoints",
    "NanoPictures",
    "NanoTraining",
    "PredictMasks",
    "PreparePrompts",
    "PrepareScene",
    "Report",
    "RunAll",
    "RunTeacher",
    "TrainNanoTeacher",
    "TrainStudent",
]
