"""Commands teacher and check-teacher: ask a teacher about an image, and test its protocol."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from data.errors import ConfigError, Failure, UserError
from pipeline.commands.command import Command, count
from pipeline.config import explain, parse_yaml
from pipeline.process.process import resolved
from stages.network_configs import LisaConfig, TeacherConfig

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_BOOLEANS = {"true": True, "false": False}
_QUERIES = ("the chair", "Where could I sit down?", "What is there to write with?")


def _choices(field: str) -> list[str]:
    """Values that the config's field accepts."""
    return [choice for choice in get_args(LisaConfig.model_fields[field].annotation) if choice]


def _add_device(parser: ArgumentParser) -> None:
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto", help="device")


def _config(content: Mapping[str, Any], source: str) -> TeacherConfig:
    try:
        return TeacherConfig.model_validate(dict(content))
    except ValidationError as error:
        raise explain(error, source, TeacherConfig) from error


def _add_teacher_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add("--image", required=True, type=Path, help="image file, 8 bits per channel")
    add("--query", required=True, action="append", help="a query; may be given several times")
    add("--teacher", required=True, choices=["lisa", "lisa_plus", "lisa_nano"])
    add("--weights", default="", help="folder or hub id of the checkpoint (not for lisa_nano)")
    add(
        "--vision-tower", default="", help="folder or hub id of CLIP (default: as config.json says)"
    )
    add("--conv", choices=_choices("conversation"), default="llava_v1", help="prompt template")
    add("--use-start-end", choices=list(_BOOLEANS), help="default: false for lisa_plus, else true")
    add("--dtype", choices=list(_DTYPES), help="default: fp32 for lisa_nano, else bf16")
    add("--quantize", choices=["8bit", "4bit"], default="none", help="needs bitsandbytes, a GPU")
    add("--masks", choices=_choices("masks"), default="single", help="masks per answer")
    add("--task-suffix", choices=_choices("task_suffix"), default="", help="a task of LISA++")
    add("--max-new-tokens", type=count, default=512, help="longest answer (default: 512)")
    add("--raw", action="store_true", help="ask the query as it is, without a question template")
    add("--out", required=True, type=Path, help=".npz file to write; a .png is written beside it")
    _add_device(parser)


def _lisa_config(options: Namespace) -> TeacherConfig:
    lisa_options = {
        "weights": options.weights,
        "vision_tower": options.vision_tower,
        "conversation": options.conv,
        "use_start_end": _BOOLEANS.get(options.use_start_end),
        "question_form": "raw" if options.raw else "auto",
        "task_suffix": options.task_suffix,
        "masks": options.masks,
        "dtype": _DTYPES.get(options.dtype),
        "quantize": options.quantize,
        "max_new_tokens": options.max_new_tokens,
        "whole_answer": True,
    }
    return _config({"name": options.teacher, "lisa": lisa_options}, "options")


def _outputs(options: Namespace) -> tuple[Path, Path]:
    """Paths of the arrays and the picture; UserError, before any work, for unusable ones."""
    out: Path = options.out
    if out.suffix != ".npz":
        raise UserError(f"--out: expected the name of an .npz file, found {str(out)!r}")
    if not out.parent.is_dir():
        raise UserError(f"--out: expected an existing folder, found no {out.parent.absolute()}")
    picture = out.with_suffix(".png")
    for path in (out, picture):
        if path.is_dir():
            raise UserError(f"--out: expected a file to write, found the folder {path}")
        if path.exists() and path.samefile(options.image):
            raise UserError(
                f"--out: {path} is the input image and would be overwritten; choose another name"
            )
    return out, picture


def _try_teacher(options: Namespace) -> None:
    """Ask the teacher, print its answers, and write the arrays and the picture."""
    from stages.teacher import try_teacher as stage
    from stages.teacher.identity import locate_weights

    if not all(query.strip() for query in options.query):
        raise UserError("--query: expected a sentence, found an empty text")
    image = stage.read_picture(options.image)
    cfg, outputs = _lisa_config(options), _outputs(options)
    locate_weights(cfg)

    from stages.teacher.make_teacher import make_lisa

    try:
        answers = stage.run(image, options.query, make_lisa(cfg, resolved(options.device)))
    except RuntimeError as error:
        if type(error).__name__ == "OutOfMemoryError":  # torch's class, without importing torch
            raise Failure(f"the GPU's memory is too small: {error}") from error
        raise
    picture = stage.draw(image, options.query, answers)
    contents = (stage.npz(stage.arrays(answers)), stage.png(picture))
    write_together(dict(zip(outputs, contents, strict=True)))
    for query, answer in zip(options.query, answers, strict=True):
        print(f"{query}\n  {answer.text}")
    print(f"{outputs[0]}, {outputs[1]}")


def write_together(contents: Mapping[Path, bytes]) -> None:
    """Write all files or none: write temporary files, then rename them."""
    temporary = {path: path.with_name(f".{path.name}.{os.getpid()}.tmp") for path in contents}
    try:
        for path, content in contents.items():
            temporary[path].write_bytes(content)
        for path in contents:
            os.replace(temporary[path], path)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _add_check_arguments(parser: ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--class",
        required=True,
        dest="class_",
        metavar="MODULE:CLASS",
        help="import path of the teacher's class",
    )
    add(
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="keyword argument for the class",
    )
    add("--seed", type=int, default=0, help="seed, for a class with this parameter")
    add(
        "--image",
        action="append",
        type=Path,
        default=[],
        help="an image file (default: two generated images)",
    )
    add("--query", action="append", default=[], help="a query (default: three about furniture)")
    add(
        "--tolerance",
        type=float,
        default=1e-3,
        help="relative tolerance; low precision needs a larger one",
    )
    _add_device(parser)


def _check_teacher(options: Namespace) -> None:
    """Run the conformance test on a class; Failure where it breaks the protocol."""
    options_of_class = dict(_option(text) for text in options.option)
    content = {"class": options.class_, "options": options_of_class, "seed": options.seed}
    cfg = _config(content, "options")

    from stages.teacher import try_teacher as stage
    from stages.teacher.try_teacher import read_picture

    images = [read_picture(path) for path in options.image]
    queries = tuple(dict.fromkeys(options.query)) or _QUERIES
    result = stage.run_check(cfg, images, queries, resolved(options.device), options.tolerance)
    if result.fault:
        raise Failure(f"{cfg.class_} does not conform: {result.fault}")
    print(f"{cfg.class_} conforms: {result.summary}")


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.isidentifier():
        raise ConfigError(f"--option: expected name=value, found {text!r}")
    return name, parse_yaml(value, f"--option {name}")


TEACHER = Command("ask LISA about one image", _add_teacher_arguments, _try_teacher)
CHECK_TEACHER = Command(
    "test whether your own teacher class keeps the teacher protocol",
    _add_check_arguments,
    _check_teacher,
)
