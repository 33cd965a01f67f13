"""The project runs in folders that hold packages and folders with the names of its own."""

from __future__ import annotations

import configparser
import importlib
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline import import_path
from pipeline.import_path import PACKAGES, put_project_first
from tests.support.cli import REPOSITORY, environment, luigi

COMMAND = ("-c", "import sys; from mllm3d_command import main; sys.exit(main())")
NAMES = (*PACKAGES, "tests")
KNOWN_SETS = "Known sets: demo, "


def crowd(folder: Path, names: tuple[str, ...], are_packages: bool) -> Path:
    """A folder that holds folders of these names, as packages that cannot be imported or empty."""
    for name in names:
        (folder / name).mkdir(parents=True)
        if are_packages:
            (folder / name / "__init__.py").write_text("raise ImportError('a package of my own')")
    return folder


def run_python(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python in ``folder``, which comes before the project on its path."""
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment(folder / "output", PYTHONPATH=path),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.mark.parametrize(
    ("start", "names", "are_packages"),
    [
        (("-m", "pipeline"), NAMES, False),
        (("-m", "pipeline"), tuple(n for n in NAMES if n != "pipeline"), True),
        (COMMAND, NAMES, True),
    ],
)
def test_commands_run_beside_packages_of_the_same_names(
    tmp_path: Path, start: tuple[str, ...], names: tuple[str, ...], are_packages: bool
) -> None:
    folder = crowd(tmp_path / "mine", names, are_packages)
    done = run_python(folder, *start, "status", "--scene-set", "demo")
    assert done.returncode == 0, done.stderr
    assert "results of this config: not in place" in done.stdout


def test_tasks_run_beside_packages_of_the_same_names(tmp_path: Path) -> None:
    names = tuple(name for name in NAMES if name != "pipeline")
    folder = crowd(tmp_path / "mine", names, True)
    path = os.pathsep.join([str(folder), str(REPOSITORY)])
    run = luigi(folder, "RunAll", "--scene-set", "nowhere", PYTHONPATH=path)
    assert KNOWN_SETS in run.stdout and "a package of my own" not in run.stdout


def test_the_command_is_told_by_its_own_name(tmp_path: Path) -> None:
    done = run_python(tmp_path, *COMMAND, "status", "--scene-set", "nowhere")
    assert done.returncode == 2 and done.stderr.startswith("mllm3d status: ")
    assert KNOWN_SETS in done.stderr


def test_the_installed_command_names_a_function_that_there_is() -> None:
    setup = configparser.ConfigParser()
    setup.read(REPOSITORY / "setup.cfg")
    (line,) = setup["options.entry_points"]["console_scripts"].split("\n")[1:]
    name, target = line.split(" = ")
    module, function = target.split(":")
    assert name == "mllm3d" and module in setup["options"]["py_modules"].split()
    assert callable(getattr(importlib.import_module(module), function))


def test_spawned_processes_import_the_projects_packages(tmp_path: Path) -> None:
    folder = crowd(tmp_path / "mine", ("data", "stages"), True)
    (folder / "origins.py").write_text(
        "def origins():\n    import data, stages\n    return data.__file__, stages.__file__\n"
    )
    (folder / "program.py").write_text(
        "import multiprocessing\n"
        "from origins import origins\n"
        "if __name__ == '__main__':\n"
        "    import pipeline\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(*pool.apply(origins), sep='\\n')\n"
    )
    done = run_python(folder, "program.py")
    expected = [str(REPOSITORY / name / "__init__.py") for name in ("data", "stages")]
    assert done.stdout.splitlines() == expected, done.stderr


def test_only_entries_that_hide_the_project_are_moved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hiding, other, root = (str(tmp_path / name) for name in ("hiding", "other", "root"))
    Path(hiding).mkdir()
    (Path(hiding) / "models.py").write_text("")
    crowd(Path(root), PACKAGES, True)
    monkeypatch.setattr(import_path, "ROOT", Path(root))
    for before, after in (
        ([hiding, other, root], [other, root, hiding]),
        ([other, hiding], [other, root, hiding]),
        ([root, hiding, other], [root, hiding, other]),
        ([f"{root}/../root", hiding], [root, hiding]),
    ):
        monkeypatch.setattr(sys, "path", list(before))
        put_project_first()
        assert sys.path == after
        put_project_first()
        assert sys.path == after
    monkeypatch.chdir(hiding)
    monkeypatch.setattr(sys, "path", ["", root])
    put_project_first()
    assert sys.path == [root, ""]


def test_jobs_of_slurm_do_not_import_from_such_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from pipeline.__main__ import main

    def commands(folder: Path) -> Any:
        monkeypatch.chdir(folder)
        assert main(["submit", "--scene-set", "demo", "--array", "2", "--dry-run"]) == 0
        page = capsys.readouterr().out
        return [line for line in page.splitlines() if "luigi --module pipeline" in line]

    (tmp_path / "plain").mkdir()
    for line in commands(tmp_path / "plain"):
        assert f"{sys.executable} -m luigi" in line
    found = commands(crowd(tmp_path / "mine", ("pipeline",), True))
    assert len(found) == 2
    for line in found:
        assert f"{sys.executable} -P -m luigi" in line
