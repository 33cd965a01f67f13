"""``show`` and ``gif`` from the command line, on a tiny run; what is missing or unknown is told."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from data.errors import UserError
from data.types import Prompt
from pipeline.__main__ import main
from pipeline.commands import show
from pipeline.plan import load_plan
from pipeline.steps.questions import Questions
from tests.support.finished_run import FinishedRun

Ask = Callable[..., tuple[int, str, str]]


@pytest.fixture
def made(tiny_run: FinishedRun) -> Path:
    """A folder with a scene set, tiny.yaml, and its finished run; only to read."""
    return tiny_run.folder


@pytest.fixture
def ask(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Ask:
    """Exit code, output and errors of a command about that run, from an empty folder."""
    monkeypatch.setenv("MLLM3D_OUTPUT", str(made / "output"))
    monkeypatch.chdir(tmp_path)

    def asked(*arguments: str) -> tuple[int, str, str]:
        code = main([*arguments, "--scene-set", str(made / "tiny.yaml")])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return asked


@pytest.fixture
def scene(made: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(made / "output"))
    return load_plan(str(made / "tiny.yaml")).scenes("val")[0]


def _paths(printed: str) -> list[Path]:
    return [Path(line.split("  ")[0]) for line in printed.splitlines() if not line.startswith(" ")]


def _is_sheet(path: Path) -> bool:
    with Image.open(path) as image:
        image.load()
        return image.format == "PNG" and image.width == 1400


def test_a_scene_is_shown_in_the_folder_named(ask: Ask, scene: str) -> None:
    code, out, _ = ask("show", "scene", "--scene", scene, "--out", "seen/here", "--views", "2")
    assert code == 0
    paths = _paths(out)
    names = [f"{scene}_above.png", f"{scene}_views_1.png"]
    assert paths == [Path("seen/here") / name for name in names]
    assert all(map(_is_sheet, paths))
    assert sorted(path.name for path in Path("seen/here").iterdir()) == names


def test_links_print_a_figure_a_view(ask: Ask, scene: str) -> None:
    code, out, _ = ask("show", "links", "--scene", scene)
    assert code == 0 and _is_sheet(Path("show") / f"{scene}_links_1.png")
    lines = [line for line in out.splitlines() if line.startswith("  ")]
    assert len(lines) == 4
    for line in lines:
        differ = float(line.split("differ by ")[1].split()[0])
        chance = float(line.split("chance: ")[1].rstrip(")"))
        assert 0 < differ < chance < 255


def test_the_teacher_is_shown_query_by_query(ask: Ask, scene: str) -> None:
    code, out, _ = ask("show", "teacher", "--scene", scene, "--views", "2")
    assert code == 0
    paths = _paths(out)
    assert len(paths) == 4 and all(map(_is_sheet, paths))
    text = out.splitlines()[1].split("  ")[1].strip('"')
    code, again, _ = ask("show", "teacher", "--scene", scene, "--query", text.upper())
    assert code == 0 and paths[1] in _paths(again)
    prompt_id = paths[2].stem.removeprefix(f"{scene}_teacher_")
    code, again, _ = ask("show", "teacher", "--scene", scene, "--query", prompt_id)
    assert code == 0 and _paths(again) == [paths[2]]


def test_views_by_name(ask: Ask, scene: str) -> None:
    _, out, _ = ask("show", "links", "--scene", scene)
    names = [line.split("'")[1] for line in out.splitlines() if line.startswith("  ")]
    for what in ("scene", "links", "teacher"):
        code, out, _ = ask("show", what, "--scene", scene, "--view", names[2], "--view", names[0])
        assert code == 0
        if what == "links":
            shown = [line.split("'")[1] for line in out.splitlines() if line.startswith("  ")]
            assert shown == [names[2], names[0]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--scene", "nowhere"), ", ...), found 'nowhere'"),
        (("--view", "DSC\x1b[31m"), r"has no view 'DSC\x1b[31m' (there are 'DSC"),
        (("--query", "zebra crossing"), "has 'zebra crossing' in it (there are '"),
        (("--query", " "), "has ' ' in it"),
        (("--out", "file"), "file is a file; name a folder"),
        (("--overrides", "teacher.seed=77"), "Run: luigi --module pipeline RunTeacher"),
        (("--overrides", "prepare.max_views=3"), "Run: luigi --module pipeline PrepareScene"),
        (("--overrides", "fuse.nothing=3"), "fuse.nothing"),
    ],
)
def test_mistakes_are_told_in_a_line(
    ask: Ask, scene: str, arguments: tuple[str, ...], told: str
) -> None:
    Path("file").write_text("")
    where = () if "--scene" in arguments else ("--scene", scene)
    code, out, err = ask("show", "teacher", *where, *arguments)
    assert code == 2 and not out
    assert told in err and err.count("\n") == 1 and "\x1b" not in err
    assert not Path("show").exists()


def test_what_is_missing_names_the_task_and_the_scene(ask: Ask, scene: str) -> None:
    _, _, err = ask("show", "links", "--scene", scene, "--overrides", "link.near=0.3")
    assert "LinkPoints --scene-set" in err and f"--scene {scene}" in err
    code, _, err = ask("show", "scene", "--scene", scene, "--query", "bed")
    assert code == 2 and "--query: expected with show teacher only" in err
    _, _, err = ask("gif", "--out", "a.gif", "--overrides", "student.lr=0.5")
    assert "Run: luigi --module pipeline PredictMasks" in err


def test_without_labels_the_teacher_is_shown_all_the_same(
    ask: Ask, scene: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLLM3D_OUTPUT", str(tmp_path / "output"))
    shutil.copytree(made / "output", tmp_path / "output")
    shutil.rmtree(tmp_path / "output" / "tiny" / "fuse_masks")
    code, out, _ = ask("show", "teacher", "--scene", scene)
    assert code == 0 and len(_paths(out)) == 4


def test_a_hostile_query_is_printed_and_filed_as_text(
    ask: Ask, scene: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, _ = ask("show", "teacher", "--scene", scene, "--view", _view(ask, scene))
    prompt_id = _paths(out)[0].stem.removeprefix(f"{scene}_teacher_")
    text = "<img src=x onerror=alert(1)>\x1b[2J\n\u202eabc"
    hostile = [Prompt(prompt_id, scene, text, "referring")]
    monkeypatch.setattr(Questions, "asked", lambda self, name: hostile)
    code, out, _ = ask("show", "teacher", "--scene", scene)
    assert code == 0
    assert out.splitlines()[0].endswith('"<img src=x onerror=alert(1)> [2J abc"')
    with pytest.raises(UserError, match=r"\\u202e"):
        show.chosen_prompts(hostile, ["zebra"], "no query has")


def _view(ask: Ask, scene: str) -> str:
    _, out, _ = ask("show", "links", "--scene", scene, "--views", "1")
    return out.split("'")[1]


def test_a_gif_of_the_run_is_made_the_same_twice(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.report.animation.STEPS", 3)
    for name in ("a.gif", "b.gif"):
        code, out, err = ask("gif", "--out", name, "--queries", "1")
        assert code == 0, err
    assert Path("a.gif").read_bytes() == Path("b.gif").read_bytes()
    with Image.open("a.gif") as image:
        assert image.size == (800, 460) and getattr(image, "n_frames") == 5
    prompt_id = out.split("  ")[1]
    code, out, _ = ask("gif", "--out", "c.gif", "--query", prompt_id)
    assert code == 0 and Path("c.gif").read_bytes() == Path("a.gif").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--out", "a.png"), "expected the name of a .gif file"),
        (("--out", "none/a.gif"), "expected an existing folder"),
        (("--out", "a.gif", "--query", "zebra crossing"), "has 'zebra crossing' in it"),
    ],
)
def test_a_gif_that_cannot_be_is_refused(ask: Ask, arguments: tuple[str, ...], told: str) -> None:
    code, out, err = ask("gif", *arguments)
    assert code == 2 and told in err and not out
    assert not list(Path.cwd().iterdir())


def test_both_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "    show " in printed and "    gif " in printed
