"""Luigi tasks over the stages: ``luigi --module pipeline RunAll --scene-set demo``."""

from pipeline import luigi_setup

luigi_setup.install()

from pipeline.ablation import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    Ablation,
    AblationReport,
    MeasureArms,
)
from pipeline.conversion import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    ConvertReason3D,
    PreprocessScannetpp,
)
from pipeline.error_curves import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    ErrorCurves,
    MeasureErrorCurves,
)
from pipeline.nano import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    NanoPictures,
    NanoTraining,
    TrainNanoTeacher,
)
from pipeline.tasks import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    DistilText,
    Evaluate,
    FuseMasks,
    GenerateRoom,
    GenerateRooms,
    JudgeTeacher,
    LiftFeatures,
    LinkPoints,
    OracleLabels,
    PredictMasks,
    PreparePrompts,
    PrepareScene,
    Report,
    RunAll,
    RunTeacher,
    TrainStudent,
)

__all__ = [
    "Ablation",
    "AblationReport",
    "ConvertReason3D",
    "DistilText",
    "ErrorCurves",
    "MeasureArms",
    "MeasureErrorCurves",
    "Evaluate",
    "FuseMasks",
    "GenerateRoom",
    "GenerateRooms",
    "JudgeTeacher",
    "LiftFeatures",
    "LinkPoints",
    "NanoPictures",
    "NanoTraining",
    "OracleLabels",
    "PredictMasks",
    "PreparePrompts",
    "PrepareScene",
    "PreprocessScannetpp",
    "Report",
    "RunAll",
    "RunTeacher",
    "TrainNanoTeacher",
    "TrainStudent",
]
