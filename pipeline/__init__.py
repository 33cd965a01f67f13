"""Luigi tasks over the stages: ``luigi --module pipeline RunAll --scene-set demo``."""

from pipeline import luigi_setup

luigi_setup.install()

from pipeline.ablation import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    Ablation,
    AblationReport,
    MeasureArms,
)
from pipeline.class_embeddings import (  # noqa: E402  (Luigi reads its defaults first)
    EmbedClasses,
)
from pipeline.conversion import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    ConvertReason3D,
    PreprocessScannetpp,
)
from pipeline.error_curves import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    ErrorCurves,
    MeasureErrorCurves,
)
from pipeline.learning_tasks import (  # noqa: E402  (Luigi reads its defaults first)
    DistilText,
    FinetuneStudent,
    OracleLabels,
    TrainStudent,
)
from pipeline.nano import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    NanoPictures,
    NanoTraining,
    TrainNanoTeacher,
)
from pipeline.result_tasks import (  # noqa: E402  (Luigi reads its defaults first)
    AnswerQuestions,
    Evaluate,
    FindRooms,
    JudgeTeacher,
    PredictMasks,
    Report,
    RunAll,
)
from pipeline.shards import (  # noqa: E402  (Luigi reads its defaults first)
    CacheTeacherMasks,
)
from pipeline.tasks import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    FuseMasks,
    GenerateRoom,
    GenerateRooms,
    LiftFeatures,
    LinkPoints,
    PreparePrompts,
    PrepareScene,
    RunTeacher,
)
from pipeline.transfer import (  # noqa: E402  (Luigi reads its defaults when tasks are defined)
    EvaluateZeroShot,
    Finetune,
)

__all__ = [
    "Ablation",
    "AblationReport",
    "AnswerQuestions",
    "CacheTeacherMasks",
    "ConvertReason3D",
    "DistilText",
    "EmbedClasses",
    "ErrorCurves",
    "Evaluate",
    "EvaluateZeroShot",
    "Finetune",
    "FindRooms",
    "FinetuneStudent",
    "FuseMasks",
    "GenerateRoom",
    "GenerateRooms",
    "JudgeTeacher",
    "LiftFeatures",
    "LinkPoints",
    "MeasureArms",
    "MeasureErrorCurves",
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
