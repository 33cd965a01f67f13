"""submit: the teacher's shards as a Slurm array, then all that follows."""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data.errors import ConfigError, Failure
from pipeline.commands.command import Command, add_run_arguments, count
from pipeline.config import YAML_SUFFIXES, absolute_config
from pipeline.import_path import hides_project

if TYPE_CHECKING:
    from pipeline.plan import Plan


_RESOURCES = {
    "partition": "where to run; default: the cluster's",
    "time": "limit, as sbatch takes it, e.g. 8:00:00",
    "gpus-per-task": "GPUs; 0 for none",
    "cpus-per-task": "cores, which also bound worker processes and threads; default: 4",
    "mem": "memory, as sbatch takes it, e.g. 32G",
    "account": "whom to charge",
    "qos": "quality of service",
}
_DEFAULTS = {"cpus-per-task": 4}
_FIXED = (
    "array chdir dependency error job-name kill-on-invalid-dep no-requeue nodes ntasks "
    "open-mode output parsable requeue signal wrap"
).split()


def _add_arguments(parser: ArgumentParser) -> None:
    add_run_arguments(parser)
    add = parser.add_argument
    add("--array", type=count, required=True, metavar="N", help="elements the scenes are dealt to")
    add("--limit", type=count, metavar="N", help="elements that may run at once; default: all")
    for name, told in _RESOURCES.items():
        kind = count if name == "cpus-per-task" else str
        add(f"--{name}", type=kind, default=_DEFAULTS.get(name), help=told)
    for name in _RESOURCES:
        kind = count if name == "cpus-per-task" else str
        add(f"--rest-{name}", type=kind, help="the same of the rest; default: as the array's")
    add("--sbatch-option", action="append", default=[], metavar="KEY=VALUE", help="for both jobs")
    add("--task", default="RunAll", help="what runs after the array; default: RunAll")
    add("--workers", type=count, help="worker processes of the rest; default: its cores, up to 4")
    add("--dry-run", action="store_true", help="print the scripts, write and submit nothing")


class _Job(NamedTuple):
    name: str
    script: str


def _submit(options: Namespace) -> None:
    from pipeline.workers import slurm
    from pipeline.workers.slurm import FOLDER, Submission

    plan = _checked(options)
    if not options.dry_run:
        slurm.require_sbatch()
    folder = _free_folder(plan.output / FOLDER)
    array, rest = _scripts(options, plan, folder)
    if options.dry_run:
        after = _after("ID_OF_THE_ARRAY")
        for job, more in ((array, []), (rest, after)):
            line = ["sbatch", "--parsable", *more, str(folder / job.name)]
            print(f"# {shlex.join(line)}\n{job.script}")
        return
    folder.mkdir(parents=True)
    for job in (array, rest):
        (folder / job.name).write_text(job.script)
    asked = (options.scene_set, options.config, options.overrides, options.array, options.task)
    array_job = slurm.sbatch([], folder / array.name)
    Submission(*asked, array_job).write(folder)
    try:
        rest_job = slurm.sbatch(_after(array_job), folder / rest.name)
    except Failure as error:
        slurm.scancel(array_job)
        raise Failure(f"{error} (the array, job {array_job}, was cancelled)") from error
    Submission(*asked, array_job, rest_job).write(folder)
    print(f"array: job {array_job}, {options.array} elements, {len(plan.scenes())} scenes")
    print(f"rest: job {rest_job}, {options.task}, once all elements have ended well")
    print(f"scripts, logs and the record: {folder}")


def _checked(options: Namespace) -> Plan:
    """The plan, once everything that can be refused without Slurm has been; UserError else.

    Paths in ``options`` are made absolute.
    """
    import luigi

    from pipeline.plan import load_plan
    from pipeline.reasons import units_of
    from pipeline.tasks.shards import CacheTeacherMasks
    from pipeline.tasks.steps import PipelineTask

    if options.scene_set.endswith(YAML_SUFFIXES):
        options.scene_set = os.path.abspath(options.scene_set)
    options.config = absolute_config(options.config)
    asked = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    plan = load_plan(**asked)
    scenes = len(plan.scenes())
    if options.array > scenes:
        raise ConfigError(f"--array: expected 1 to {scenes}, the scenes there are, found more")
    for text in options.sbatch_option:
        _check_option(text)
    CacheTeacherMasks(**asked, num_shards=options.array, shard_index=0)
    known = luigi.task_register.Register.task_names()
    kind = (
        luigi.task_register.Register.get_task_cls(options.task) if options.task in known else None
    )
    if kind is None or not issubclass(kind, PipelineTask):
        raise ConfigError(f"--task: expected a task on a scene set, found {options.task!r}")
    units_of(kind(**asked))
    return plan


def _check_option(text: str) -> None:
    key = text.partition("=")[0]
    if not re.fullmatch(r"[a-z][a-z0-9-]+", key):
        raise ConfigError(
            f"--sbatch-option: expected an option's long name without dashes and its value, such "
            f"as constraint=a100, found {text!r}"
        )
    # Slurm completes shortened names.
    taken = [name for name in (*_FIXED, *_RESOURCES) if name.startswith(key)]
    if taken and taken[0] in _RESOURCES:
        raise ConfigError(f"--sbatch-option: {key} has an option of its own: --{taken[0]}")
    if taken:
        raise ConfigError(f"--sbatch-option: {taken[0]} is set by submit itself")


def _free_folder(root: Path) -> Path:
    """A folder that there is not, named by the time; by the next free second where it is taken."""
    moment = time.time()
    while True:
        folder = root / time.strftime("%Y%m%d-%H%M%S", time.localtime(moment))
        if not folder.exists():
            return folder
        moment += 1


def _after(job: str) -> list[str]:
    return [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]


def _scripts(options: Namespace, plan: Plan, folder: Path) -> tuple[_Job, _Job]:
    """The array's script and that of the rest."""
    from pipeline.workers.slurm import ELEMENT, ELEMENT_NUMBER, REST, batch_script, exports

    variables = exports(plan.output.parent, os.environ)
    same = ["--scene-set", options.scene_set]
    for name in ("config", "overrides"):
        if getattr(options, name):
            same += [f"--{name}", getattr(options, name)]
    # Jobs start in this folder; a package of the user's named like ours must not be run there.
    safe_path = ["-P"] if hides_project(os.getcwd()) else []
    luigi = [sys.executable, *safe_path, "-m", "luigi", "--module", "pipeline"]
    shard = [*luigi, "CacheTeacherMasks", *same, "--num-shards", str(options.array)]
    at_once = f"%{options.limit}" if options.limit else ""
    numbers = ("array", f"0-{options.array - 1}{at_once}")
    array = batch_script(
        [("job-name", f"{plan.scene_set.name}-teacher"), numbers, *_asked_for(options, "")],
        variables,
        [*shard, "--shard-index", ELEMENT_NUMBER],
        ELEMENT,
        folder,
        is_array=True,
    )
    workers = ["--workers", str(options.workers)] if options.workers else []
    rest = batch_script(
        [("job-name", f"{plan.scene_set.name}-rest"), *_asked_for(options, "rest_")],
        variables,
        [*luigi, options.task, *same, *workers],
        REST,
        folder,
        is_array=False,
    )
    return _Job("array.sh", array), _Job("rest.sh", rest)


def _asked_for(options: Namespace, prefix: str) -> list[tuple[str, str]]:
    """Options of a job for sbatch: resources, then what else was asked for."""
    found = [("nodes", "1"), ("ntasks", "1"), ("chdir", os.getcwd())]
    for name in _RESOURCES:
        key = name.replace("-", "_")
        own = getattr(options, prefix + key)
        value = getattr(options, key) if own is None else own
        if value and not (name == "gpus-per-task" and value == "0"):
            found.append((name, str(value)))
    for text in options.sbatch_option:
        key, _, value = text.partition("=")
        found.append((key, value))
    return found


SUBMIT = Command("the teacher's shards as a Slurm array, then the rest", _add_arguments, _submit)
