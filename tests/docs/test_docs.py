"""The documentation is true: its commands are accepted, its examples run, its links lead on."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from luigi.cmdline_parser import CmdlineParser
from luigi.task_register import Register

from pipeline import __main__ as commands
from pipeline.config import valid_keys
from pipeline.plan import experiment_model, load_plan
from pipeline.steps import STEPS
from stages.configs import Experiment
from tests.docs.doc_pages import PAGES, SHELL, Block, all_blocks, anchors, blocks, links, prose
from tests.support.cli import REPOSITORY
from tests.support.finished_run import FinishedRun

PROGRAMS = ("luigi", "mllm3d", "python", "make", "pip", "hf", "ssh", "luigid")
README_LINES = 200
FILES = (".json", ".html", ".zarr", ".h5")
CHECKED = [block for block in all_blocks() if block.marker in ("run", "parsed")]
RUN = [block for block in CHECKED if block.marker == "run"]
SNIPPETS = [
    page for page in PAGES if page.parent == REPOSITORY / "docs" and "```python" in page.read_text()
]


@pytest.fixture(scope="module")
def demo_folder(tiny_run: FinishedRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose ``output/demo`` is a finished run of very small rooms, only to read.

    ``output_before/demo``, which commands compare it with, is the same.
    """
    folder = tmp_path_factory.mktemp("docs")
    for output in ("output", "output_before"):
        (folder / output).mkdir()
        (folder / output / "demo").symlink_to(tiny_run.folder / "output" / "tiny")
    (step,) = [text for text in _examples() if "Step(" in text]
    (folder / "coverage_step.py").write_text(step)
    return folder


def _examples() -> list[str]:
    contributing = blocks(REPOSITORY / "CONTRIBUTING.md")
    return [block.text for block in contributing if block.language == "python"]


@pytest.fixture
def _own_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps that a command declares are forgotten afterwards."""
    known = dict(STEPS)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    STEPS.clear()
    STEPS.update(known)
    sys.modules.pop("coverage_step", None)
    experiment_model.cache_clear()


@pytest.fixture
def in_demo(
    demo_folder: Path, tiny_run: FinishedRun, _own_steps: None, monkeypatch: pytest.MonkeyPatch
) -> str:
    """The same as the current folder; the scene set that stands for the demo's."""
    monkeypatch.chdir(demo_folder)
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tiny_run.folder / "output"))
    return tiny_run.scene_set


def test_readme_is_short() -> None:
    assert len((REPOSITORY / "README.md").read_text().splitlines()) <= README_LINES


def test_every_command_is_marked() -> None:
    unmarked = [b.name for b in all_blocks() if b.language in SHELL and not b.marker]
    assert unmarked == [], "write <!-- run -->, <!-- parsed --> or <!-- not run here: why --> above"


def test_no_command_hides_in_a_block_of_another_language() -> None:
    hidden = [
        block.name
        for block in all_blocks()
        if block.language not in (*SHELL, "python")
        and any(line.split(" ")[0] in PROGRAMS for line in block.text.splitlines())
    ]
    assert hidden == []


def test_markers_stand_before_blocks_of_commands() -> None:
    for page in PAGES:
        marked = [block for block in blocks(page) if block.marker and block.language in SHELL]
        assert len(re.findall(r"^<!-- (?:run|parsed|not run)", page.read_text(), re.M)) == len(
            marked
        ), f"{page}: a marker without a block"


@pytest.mark.parametrize("block", CHECKED, ids=lambda block: block.name)
def test_commands_are_accepted(
    block: Block, tmp_path: Path, _own_steps: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_experiment.yaml").write_text("student: {lr: 0.02}\n")
    (step,) = [text for text in _examples() if "Step(" in text]
    (tmp_path / "coverage_step.py").write_text(step)
    monkeypatch.chdir(tmp_path)
    for words in block.commands():
        while words and re.fullmatch(r"[A-Z]\w*=.*", words[0]):
            name, _, value = words.pop(0).partition("=")
            assert "configs/" not in value or (REPOSITORY / value).is_file(), value
        _accept(words, monkeypatch)


def _accept(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Fail unless the program knows the words; nothing is run."""
    program, arguments = words[0], words[1:]
    if program == "export":
        for assigned in arguments:
            name, equals, value = assigned.partition("=")
            assert equals and value, assigned
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (REPOSITORY / "Makefile").read_text(), re.M)
        assert set(arguments) <= set(targets)
    elif program == "luigi":
        assert arguments[:2] == ["--module", "pipeline"]
        _accept_task(arguments)
    elif program == "luigid":
        assert arguments == ["--port", "8082"]
    elif program == "mllm3d":
        _accept_command(arguments, monkeypatch)
    elif words[:3] == ["python", "-m", "pipeline"]:
        _accept_command(words[3:], monkeypatch)
    else:
        assert words[:2] == ["python", "-m"] and importlib.util.find_spec(words[2]), words


def _accept_task(arguments: list[str]) -> None:
    with CmdlineParser.global_instance(arguments) as parser:
        Register.get_task_cls(parser.known_args.root_task)
        given = parser._get_task_kwargs()  # Making the task would look for its data set.
    if "scene_set" in given:
        names = ("scene_set", "config", "overrides")
        load_plan(*(given.get(name, "") for name in names))


def _accept_command(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Namespace] = []
    known = {name: command._replace(run=told.append) for name, command in commands.COMMANDS.items()}
    with monkeypatch.context() as patch:
        patch.setattr(commands, "COMMANDS", known)
        if _code(arguments) == 0 and not told:
            assert "--help" in arguments
            return
    (options,) = told
    if getattr(options, "scene_set", None):
        load_plan(*(getattr(options, name, "") for name in ("scene_set", "config", "overrides")))


def _code(arguments: list[str]) -> Any:
    """The exit code of a command in this process."""
    try:
        return commands.main(arguments)
    except SystemExit as end:
        return end.code


@pytest.mark.parametrize("block", RUN, ids=lambda block: block.name)
def test_commands_run(block: Block, in_demo: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in block.commands():
        assert words[0] == "mllm3d", "only mllm3d's commands are run here"
        small = [in_demo if word == "demo" else word for word in words[1:]]
        code = _code(small)
        printed = capsys.readouterr()
        assert code == 0, f"{words}: {printed.err}"
        assert printed.out.strip()


@pytest.mark.parametrize("page", SNIPPETS, ids=lambda page: page.name)
def test_python_runs_as_written(
    page: Path, in_demo: str, capsys: pytest.CaptureFixture[str]
) -> None:
    scope: dict[str, Any] = {}
    for block in blocks(page):
        if block.language == "python":
            exec(compile("\n" * block.line + block.text, str(page), "exec"), scope)
    assert capsys.readouterr().out.strip()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_on(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        if re.match(r"https://", path):
            continue
        target = (page.parent / path).resolve() if path else page
        assert target.is_file(), link
        included = re.search(r'^--8<-- "(.+)"$', target.read_text(errors="ignore"), re.M)
        if anchor:
            assert anchor in anchors(REPOSITORY / included[1] if included else target), link


def test_tasks_of_the_tables_exist() -> None:
    known = set(Register.task_names())
    for name, least in (("README.md", 13), ("docs/artifacts.md", 6)):
        rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \|", prose(REPOSITORY / name), re.M)
        tasks = {task for row in rows for task in re.findall(r"`([A-Z]\w+)`", row)}
        assert len(tasks) >= least and tasks <= known, tasks - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_config_keys_exist(page: Path) -> None:
    known = set(valid_keys(Experiment))
    sections = "|".join(Experiment.model_fields)
    told = re.findall(rf"`((?:{sections})(?:\.[a-z]\w*)+)(?:=[^`]*|: [^`]*)?`", prose(page))
    keys = {key for key in told if not key.endswith(FILES) and "teacher.options." not in key}
    assert keys <= known, keys - known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_files_and_modules_exist(page: Path) -> None:
    told = re.findall(
        r"`((?:data|models|stages|pipeline|configs|docs|tests|web)[./][\w./]*)`", prose(page)
    )
    paths = {name for name in told if "/" in name}
    missing = {path for path in paths if not (REPOSITORY / path).exists()}
    for name in sorted({*told} - paths):
        module, _, attribute = name.rpartition(".")
        if _is_module(name):
            continue
        if not _is_module(module) or not hasattr(importlib.import_module(module), attribute):
            missing.add(name)
    assert missing == set()


def _is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def test_what_was_never_run_is_told_on_one_page() -> None:
    """The other pages link to it."""
    told = [page.name for page in PAGES if re.search(r"(?i)\bnot run\b|never run:", prose(page))]
    assert set(told) <= {"README.md", "never-run.md"}
