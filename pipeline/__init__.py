"""Luigi tasks over the stages: ``luigi --module pipeline RunAll --scene-set demo``."""

from pipeline.import_path import put_project_first

# Before any other import: the current folder may hold packages named like the project's.
put_project_first()

from pipeline import luigi_setup

# Before any task is imported: Luigi reads its defaults when tasks are defined.
luigi_setup.install()

from pipeline.ablation import (
    Ablation,
    AblationReport,
    MeasureArms,
)
from pipeline.class_embeddings import (
    EmbedClasses,
)
from pipeline.conversion import (
    ConvertReason3D,
    PreprocessScannetpp,
)
from pipeline.error_curves import (
    ErrorCurves,
    MeasureErrorCurves,
)
from pipeline.learning_tasks import (
    DistilText,
    FinetuneStudent,
    OracleLabels,
    TrainStudent,
)
from pipeline.nano import (
    NanoPictures,
    NanoTraining,
    TrainNanoTeacher,
)
from pipeline.result_tasks import (
    AnswerQuestions,
    Evaluate,
    FindRooms,
    JudgeTeacher,
    PredictMasks,
    Report,
    RunAll,
)
from pipeline.shards import (
    CacheTeacherMasks,
)
from pipeline.tasks import (
    FuseMasks,
    GenerateRoom,
    GenerateRooms,
    LiftFeatures,
    LinkPoints,
    PreparePrompts,
    PrepareScene,
    RunTeacher,
)
from pipeline.transfer import (
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
