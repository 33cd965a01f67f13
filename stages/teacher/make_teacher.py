"""Make the label-free teachers: LISA in its sizes, and classes that the user wrote.

No function here receives ground truth; ``stages.teacher.oracle`` makes the oracle. Torch and
transformers are imported only when a LISA is made.
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
    """Load the teacher that ``cfg`` names on ``device``, once per process and config.

    Raises UserError for weights or classes that are missing or fail, ValueError for the oracle.
    """
    if cfg.name == "oracle":
        raise ValueError("the oracle needs ground truth: stages.teacher.oracle makes it")
    return _made(cfg.model_dump_json(by_alias=True), device)


@cache
def _made(cfg_json: str, device: str) -> AnyTeacher:
    cfg = TeacherConfig.model_validate_json(cfg_json)
    return make_lisa(cfg, device) if cfg.is_lisa else make_custom(cfg, device)


def make_lisa(cfg: TeacherConfig, device: str) -> LisaTeacher:
    """Load LISA on ``device``; raise UserError when its weights are missing or damaged."""
    weights = locate_weights(cfg)

    from models.lisa.checkpoint import load_lisa
    from models.lisa.teacher import LisaSettings, LisaTeacher

    lisa = cfg.lisa
    loaded = load_lisa(
        weights.checkpoint,
        weights.vision_tower,
        dtype=cfg.dtype,
        device=device,
        quantize=None if lisa.quantize == "none" else lisa.quantize,
    )
    settings = LisaSettings(
        conversation=lisa.conversation,
        use_start_end=cfg.use_start_end,
        question_form=lisa.question_form,
        task_suffix=lisa.task_suffix,
        best_of_three=lisa.masks == "best_of_three",
        max_new_tokens=lisa.max_new_tokens,
        whole_answer=lisa.whole_answer,
    )
    return LisaTeacher(loaded, settings, cfg.name)


def make_custom(cfg: TeacherConfig, device: str) -> AnyTeacher:
    """Make an instance of the class ``cfg.class_`` with the options of ``cfg``.

    The class also receives ``seed`` and ``device`` if it has parameters of these names. Raises
    UserError, which names the line of the user's file, for any exception of the class.
    """
    factory = load_class(cfg.class_)
    options: dict[str, Any] = {"seed": cfg.seed, "device": device}
    try:
        accepted = inspect.signature(factory).parameters
        options = {name: value for name, value in options.items() if name in accepted}
        teacher = factory(**options | cfg.options)
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
            "Add them as the protocol in models/teacher.py describes, then test the class with "
            f"python -m pipeline check-teacher --class {cfg.class_}."
        )
    return cast(AnyTeacher, teacher)


def load_class(path: str) -> Callable[..., Any]:
    """Import the class or factory at ``module:Name``; raise ConfigError when that fails."""
    module_name, _, name = path.partition(":")
    find_source(module_name)
    import_from_here()
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # noqa: B902 - the user's code may raise anything
        reason = in_one_line(error)
        raise ConfigError(
            f"teacher.class: the module {module_name!r} cannot be imported: {reason}"
        ) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        fault = f"has no {name!r}" if factory is None else f"holds no class {name!r}"
        raise ConfigError(f"teacher.class: the module {module_name!r} ({module.__file__}) {fault}")
    return cast(Callable[..., Any], factory)


def in_one_line(error: Exception) -> str:
    """Format an exception in one line, with the file and line that raised it."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__]
    location = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{location}"
