"""Version of what each stage writes; raise it when the same inputs would give another content.

They stand apart from the schema modules so that planning reads them without importing numpy.
"""

from __future__ import annotations

VERSIONS: dict[str, int] = {
    "generate_rooms": 1,
    "prepare_scene": 3,
    "prepare_prompts": 2,
    "link_points": 3,
    "run_teacher": 3,
    "fuse_masks": 3,
    "train_student": 5,
    "finetune_student": 3,
    "predict_masks": 6,
    "find_rooms": 1,
    "answer_questions": 1,
    "judge_teacher": 2,
    "evaluate": 3,
    "report": 3,
    "lift_features": 1,
    "oracle_labels": 1,
    "distil_text": 1,
    "embed_classes": 1,
    "ablation": 2,
    "error_curves": 1,
    "nano_pictures": 1,
    "nano_training": 1,
    "nano_teacher": 1,
}
