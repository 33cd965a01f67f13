"""Command submit: send a run to Slurm, the teacher's shards as an array, then one more job."""

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
    "partition": "partition to run in; default: the cluster's",
    "time": "time limit in sbatch's format, e.g. 8:00:00",
    "gpus-per-task": "number of GPUs; 0 for none",
    "cpus-per-task": "number of cores, which also limits worker processes and threads; default: 4",
    "mem": "memory in sbatch's format, e.g. 32G",
    "account": "account to charge",
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
    add(
        "--array",
        type=count,
        required=True,
        metavar="N",
        help="array elements to divide the scenes among",
    )
    add("--limit", type=count, metavar="N", help="most elements that run at once; default: all")
    for name, text in _RESOURCES.items():
        parse = count if name == "cpus-per-task" else str
        add(f"--{name}", type=parse, default=_DEFAULTS.get(name), help=text)
    for name in _RESOURCES:
        parse = count if name == "cpus-per-task" else str
        add(
            f"--rest-{name}",
            type=parse,
            help=f"--{name} of the job after the array; default: the array's",
        )
    add(
        "--sbatch-option",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="further option of sbatch for both jobs",
    )
    add("--task", default="RunAll", help="task that runs after the array; default: RunAll")
    add(
        "--workers",
        type=count,
        help="worker processes of the job after the array; default: its cores, up to 4",
    )
    add("--dry-run", action="store_true", help="print the scripts; write and submit nothing")


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
        dependency = _after("ID_OF_THE_ARRAY")
        for job, dependency_of_job in ((array, []), (rest, dependency)):
            line = ["sbatch", "--parsable", *dependency_of_job, str(folder / job.name)]
            print(f"# {shlex.join(line)}\n{job.script}")
        return
    folder.mkdir(parents=True)
    for job in (array, rest):
        (folder / job.name).write_text(job.script)
    parameters = (options.scene_set, options.config, options.overrides, options.array, options.task)
    array_job = slurm.sbatch([], folder / array.name)
    Submission(*parameters, array_job).write(folder)
    try:
        rest_job = slurm.sbatch(_after(array_job), folder / rest.name)
    except Failure as error:
        slurm.scancel(array_job)
        raise Failure(f"{error} (the array, job {array_job}, was cancelled)") from error
    Submission(*parameters, array_job, rest_job).write(folder)
    print(f"array: job {array_job}, {options.array} elements, {len(plan.scenes())} scenes")
    print(f"rest: job {rest_job}, {options.task}, starts when all elements have succeeded")
    print(f"scripts, logs and the record: {folder}")


def _checked(options: Namespace) -> Plan:
    """The plan, after every check that is possible without Slurm; UserError where one fails.

    Makes the paths in ``options`` absolute.
    """
    import luigi

    from pipeline.plan import load_plan
    from pipeline.reasons import planned_artifacts
    from pipeline.tasks.shards import CacheTeacherMasks
    from pipeline.tasks.steps import PipelineTask

    if options.scene_set.endswith(YAML_SUFFIXES):
        options.scene_set = os.path.abspath(options.scene_set)
    options.config = absolute_config(options.config)
    parameters = {name: getattr(options, name) for name in ("scene_set", "config", "overrides")}
    plan = load_plan(**parameters)
    scenes = len(plan.scenes())
    if options.array > scenes:
        raise ConfigError(
            f"--array: expected 1 to {scenes}, the number of scenes, found {options.array}"
        )
    for text in options.sbatch_option:
        _check_option(text)
    CacheTeacherMasks(**parameters, num_shards=options.array, shard_index=0)
    task_names = luigi.task_register.Register.task_names()
    task_class = (
        luigi.task_register.Register.get_task_cls(options.task)
        if options.task in task_names
        else None
    )
    if task_class is None or not issubclass(task_class, PipelineTask):
        raise ConfigError(
            f"--task: expected a task on a scene set such as RunAll, found {options.task!r}"
        )
    planned_artifacts(task_class(**parameters))
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
        raise ConfigError(f"--sbatch-option: use submit's own option --{taken[0]} instead of {key}")
    if taken:
        raise ConfigError(f"--sbatch-option: submit sets {taken[0]} itself; leave it out")


def _free_folder(root: Path) -> Path:
    """A folder that does not exist yet, named by the current second or the next free one."""
    moment = time.time()
    while True:
        folder = root / time.strftime("%Y%m%d-%H%M%S", time.localtime(moment))
        if not folder.exists():
            return folder
        moment += 1


def _after(job: str) -> list[str]:
    return [f"--dependency=afterok:{job}", "--kill-on-invalid-dep=yes"]


def _scripts(options: Namespace, plan: Plan, folder: Path) -> tuple[_Job, _Job]:
    """The scripts of the array and of the job after it."""
    from pipeline.workers.slurm import ELEMENT, ELEMENT_NUMBER, REST, batch_script, exports

    variables = exports(plan.output.parent, os.environ)
    parameters = ["--scene-set", options.scene_set]
    for name in ("config", "overrides"):
        if getattr(options, name):
            parameters += [f"--{name}", getattr(options, name)]
    # Jobs start in this folder; a user's package with a name of ours must not be imported there.
    safe_path = ["-P"] if hides_project(os.getcwd()) else []
    luigi = [sys.executable, *safe_path, "-m", "luigi", "--module", "pipeline"]
    shard = [*luigi, "CacheTeacherMasks", *parameters, "--num-shards", str(options.array)]
    at_once = f"%{options.limit}" if options.limit else ""
    numbers = ("array", f"0-{options.array - 1}{at_once}")
    array = batch_script(
        [("job-name", f"{plan.scene_set.name}-teacher"), numbers, *_resources(options, "")],
        variables,
        [*shard, "--shard-index", ELEMENT_NUMBER],
        ELEMENT,
        folder,
        is_array=True,
    )
    workers = ["--workers", str(options.workers)] if options.workers else []
    rest = batch_script(
        [("job-name", f"{plan.scene_set.name}-rest"), *_resources(options, "rest_")],
        variables,
        [*luigi, options.task, *parameters, *workers],
        REST,
        folder,
        is_array=False,
    )
    return _Job("array.sh", array), _Job("rest.sh", rest)


def _resources(options: Namespace, prefix: str) -> list[tuple[str, str]]:
    """Options of a job for sbatch: its resources, then the user's further options."""
    chosen = [("nodes", "1"), ("ntasks", "1"), ("chdir", os.getcwd())]
    for name in _RESOURCES:
        key = name.replace("-", "_")
        override = getattr(options, prefix + key)
        value = getattr(options, key) if override is None else override
        if value and not (name == "gpus-per-task" and value == "0"):
            chosen.append((name, str(value)))
    for text in options.sbatch_option:
        key, _, value = text.partition("=")
        chosen.append((key, value))
    return chosen


SUBMIT = Command(
    "send a run to Slurm: the teacher's shards as an array, then the rest", _add_arguments, _submit
)
