"""Makes the teachers that never see a label: LISA in its sizes, and classes of the user's own.

The oracle is made by ``stages.teacher.oracle``, and what is made here is given no ground truth.
Torch and transformers are imported when a LISA is made, not before.
"""

from __future__ import annotations

import importlib
import inspect
import traceback
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any, cast

from data.errors import ConfigError, UserError
from models.teacher import AnyTeacher, missing_members
from stages.network_configs import TeacherConfig
from stages.teacher.identity import find_source, import_from_here, locate_weights

if TYPE_CHECKING:
    from models.lisa.teacher import LisaTeacher


def make_teacher(cfg: TeacherConfig, device: str) -> AnyTeacher:
    """The teacher that ``cfg`` names, on ``device``; loaded once per process and config.

    Raises UserError for weights or classes that are missing or do not work, and ValueError for
    the oracle.
    """
    if cfg.name == "oracle":
        raise ValueError("the oracle needs ground truth: stages.teacher.oracle makes it")
    return _made(cfg.model_dump_json(by_alias=True), device)


@cache
def _made(cfg_json: str, device: str) -> AnyTeacher:
    cfg = TeacherConfig.model_validate_json(cfg_json)
    return make_lisa(cfg, device) if cfg.is_lisa else make_custom(cfg, device)


def make_lisa(cfg: TeacherConfig, device: str) -> LisaTeacher:
    """Load LISA's weights; UserError when they are missing or damaged."""
    weights = locate_weights(cfg)

    from models.lisa.checkpoint import load_lisa
    from models.lisa.teacher import LisaSettings, LisaTeacher

    asked = cfg.lisa
    loaded = load_lisa(
        weights.checkpoint,
        weights.vision_tower,
        dtype=cfg.dtype,
        device=device,
        quantize=None if asked.quantize == "none" else asked.quantize,
    )
    settings = LisaSettings(
        conversation=asked.conversation,
        use_start_end=cfg.use_start_end,
        question_form=asked.question_form,
        task_suffix=asked.task_suffix,
        best_of_three=asked.masks == "best_of_three",
        max_new_tokens=asked.max_new_tokens,
        whole_answer=asked.whole_answer,
    )
    return LisaTeacher(loaded, settings, cfg.name)


def make_custom(cfg: TeacherConfig, device: str) -> AnyTeacher:
    """An instance of the class ``cfg.class_``, made with the options of ``cfg``.

    Of ``seed`` and ``device`` it is given those that it has parameters for. Raises UserError,
    which names the line of the user's file, for whatever goes wrong.
    """
    made = load_class(cfg.class_)
    options: dict[str, Any] = {"seed": cfg.seed, "device": device}
    try:
        accepted = inspect.signature(made).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        teacher = made(**options | cfg.options)
    except UserError:
        raise
    except Exception as error:  # noqa: B902 - the user's code may raise anything
        given = ", ".join(f"{name}={value!r}" for name, value in cfg.options.items())
        message = f"teacher.class: {cfg.class_} cannot be made with options {{{given}}}"
        raise UserError(f"{message}: {in_one_line(error)}") from error
    missing = missing_members(teacher)
    if missing:
        raise UserError(
            f"teacher.class: {cfg.class_} is no teacher: it lacks {', '.join(missing)}. "
            "See the protocol in models/teacher.py; "
            f"python -m pipeline check-teacher --class {cfg.class_} tries it."
        )
    return cast(AnyTeacher, teacher)


def load_class(path: str) -> Callable[..., Any]:
    """The class or factory at ``module:Name``; ConfigError when it cannot be had."""
    module_name, _, name = path.partition(":")
    find_source(module_name)
    import_from_here()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: B902 - the user's code may raise anything
        told = f"teacher.class: the module {module_name!r} cannot be imported: {in_one_line(error)}"
        raise ConfigError(told) from error
    found = getattr(module, name, None)
    if not callable(found):
        what = f"has no {name!r}" if found is None else f"holds no class {name!r}"
        raise ConfigError(f"teacher.class: the module {module_name!r} ({module.__file__}) {what}")
    return cast(Callable[..., Any], found)


def in_one_line(error: Exception) -> str:
    """An exception in one line, with the place it was raised at."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    place = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{place}"
