"""Published weights by hub id: where they are taken from, and how their absence is told at once."""

from __future__ import annotations

import http.server
import json
import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants
from luigi.scheduler import Scheduler

from data.errors import ConfigError, DataError, UserError
from models import hub as hub_module
from models.hub import fetch_folder
from pipeline.__main__ import main
from pipeline.config import absolute_config, packaged_experiments
from pipeline.plan import Plan, load_plan
from pipeline.steps import STEPS
from pipeline.tasks.nano import TrainNanoTeacher
from pipeline.tasks.shards import CacheTeacherMasks
from pipeline.tasks.steps import task_of
from pipeline.workers.worker import WarmWorker
from stages.teacher.identity import NANO, Weights, locate_weights, require_weights
from tests.support.cli import luigi
from tests.support.scans.scannetpp_tree import SCENE, write_tree

LISA = "xinlai/LISA-7B-v1@main"
TOWER = "openai/clip-vit-large-patch14@32bd64288804d66eefd0ccbe215aa642df71cc41"
VAL_SCENE = "00000000bb"


@pytest.fixture
def dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data folder with a small ScanNet++ of one scene a split; the current folder is another."""
    root = tmp_path / "sets" / "scannetpp"
    for scene, split in ((SCENE, "train"), (VAL_SCENE, "val")):
        write_tree(root, scene)
        (root / "splits" / f"nvs_sem_{split}.txt").write_text(f"{scene}\n")
        (root / "queries").mkdir(exist_ok=True)
        (root / "queries" / f"{split}.json").write_text("[]")
    monkeypatch.setenv("MLLM3D_DATA", str(root.parent))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return root.parent


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The hub's cache, empty; the hub itself answers at an address where nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{unused.getsockname()[1]}")
        answers = hub_module.hub_answers  # A test may put another in its place.
        answers.cache_clear()
        yield tmp_path / "hub"
    answers.cache_clear()


def write_weights(folder: Path, **config: Any) -> Path:
    """A folder that looks like a checkpoint's."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "pytorch_model.bin").write_bytes(b"weights")
    return folder


def cache(hub: Path, hub_id: str) -> Path:
    """A finished download of a name, as the hub's client leaves it."""
    repository, revision = hub_module.split_id(hub_id)
    folder = hub / f"models--{repository.replace('/', '--')}"
    commit = "c" * 40 if revision == "main" else revision
    if revision == "main":
        (folder / "refs").mkdir(parents=True)
        (folder / "refs" / revision).write_text(commit)
    return write_weights(folder / "snapshots" / commit)


def teacher_inputs(plan: Plan) -> dict[str, str]:
    inputs = plan.key("run_teacher", SCENE).inputs
    return {name: inputs[name] for name in ("weights", "vision_tower") if name in inputs}


def located(overrides: str = "", scene_set: str = "scannetpp") -> Weights:
    return locate_weights(load_plan(scene_set, "", overrides).experiment.teacher)


@pytest.mark.parametrize("scene_set", ["scannetpp", "scannet", "matterport", "matterport_search"])
def test_sets_of_real_scans_name_the_published_lisa(scene_set: str) -> None:
    assert located(scene_set=scene_set) == Weights(LISA, TOWER)


def test_a_plan_needs_neither_config_nor_weights_nor_the_hub(
    dataset: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def asked() -> bool:
        raise AssertionError("a plan asks the hub")

    monkeypatch.setattr(hub_module, "hub_answers", asked)
    for command in ("plan", "status"):
        assert main([command, "--scene-set", "scannetpp"]) == 0
    assert "RunTeacher" in capsys.readouterr().out
    assert teacher_inputs(load_plan("scannetpp")) == {"weights": LISA, "vision_tower": TOWER}


@pytest.mark.parametrize("layout", ["{0}/{1}", "{0}--{1}", "{1}"])
def test_a_copy_in_the_weights_folder_is_the_folder_that_the_lisa_experiment_names(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: str
) -> None:
    weights = tmp_path / "weights"
    monkeypatch.setenv("MLLM3D_WEIGHTS", str(weights))
    folders = [
        write_weights(weights / layout.format(*hub_id.partition("@")[0].split("/")), of=hub_id)
        for hub_id in (LISA, TOWER)
    ]
    assert located() == Weights(*folders)
    bare = f"teacher.lisa.weights={LISA.partition('@')[0]},teacher.lisa.vision_tower="
    assert located(bare + TOWER) == Weights(*folders)
    found = load_plan("scannetpp").key("run_teacher", SCENE).fingerprint
    for hub_id, folder in zip((LISA, TOWER), folders, strict=True):
        moved = weights / hub_id.partition("@")[0].split("/")[1]
        if folder != moved:
            shutil.move(folder, moved)
    assert load_plan("scannetpp", "lisa").key("run_teacher", SCENE).fingerprint == found
    (moved / "config.json").unlink()
    with pytest.raises(DataError, match="without config.json.*again, or remove"):
        located("teacher.seed=1")


def test_only_a_lisa_without_weights_of_its_own_gets_the_published_ones(tmp_path: Path) -> None:
    own = write_weights(tmp_path / "own", mm_vision_tower="tower")
    tower = write_weights(tmp_path / "tower")
    assert located(f"teacher.lisa.weights={own}") == Weights(own, tower)
    assert located(f"teacher.lisa.vision_tower={tower}") == Weights(LISA, tower)
    assert located("teacher.name=lisa_nano").checkpoint == NANO
    with pytest.raises(UserError, match="'lisa_plus' needs weights"):
        located("teacher.name=lisa_plus")


def test_what_can_be_had_nowhere_is_refused_with_both_ways_out(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cfg = load_plan("scannetpp").experiment.teacher
    for offline, reason in ((False, "does not answer"), (True, "HF_HUB_OFFLINE")):
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
        hub_module.hub_answers.cache_clear()
        with pytest.raises(UserError) as caught:
            require_weights(cfg)
        told = str(caught.value)
        assert told.startswith(f"{LISA} and {TOWER}: expected in $MLLM3D_WEIGHTS (not set)")
        assert str(hub_cache) in told and constants.ENDPOINT in told and reason in told
        assert "Either run where the hub can be reached" in told
        assert "hf download xinlai/LISA-7B-v1 --local-dir LISA-7B-v1 && hf download " in told
        assert f"openai/clip-vit-large-patch14 --revision {TOWER.partition('@')[2]} " in told
    cache(hub_cache, LISA)
    with pytest.raises(UserError, match=f"^{TOWER}: expected"):
        require_weights(cfg)
    cache(hub_cache, TOWER)
    require_weights(cfg)
    require_weights(load_plan("demo").experiment.teacher)


def test_half_a_download_is_none(hub_cache: Path) -> None:
    folder = cache(hub_cache, LISA)
    assert hub_module.cached_folder("xinlai/LISA-7B-v1") == folder
    index = folder / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "pytorch_model.bin", "b": "second.bin"}}))
    assert hub_module.cached_folder(LISA) is None
    (folder / "second.bin").write_bytes(b"weights")
    assert hub_module.cached_folder(LISA) == folder
    index.write_text("{")
    assert hub_module.cached_folder(LISA) is None
    index.unlink()
    (folder / "config.json").unlink()
    assert hub_module.cached_folder(LISA) is None


def test_any_answer_of_the_hub_counts(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_error(403)

        def log_message(self, *_: Any) -> None:
            pass

    assert not hub_module.hub_answers()
    hub_module.hub_answers.cache_clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        monkeypatch.setenv("no_proxy", "*")
        assert hub_module.hub_answers()
        server.shutdown()


@pytest.mark.parametrize("is_online", [True, False])
def test_the_revision_is_fetched_and_without_network_only_the_cache_is_read(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch, is_online: bool
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repository: str, allow_patterns: list[str], **options: Any) -> str:
        asked.append((repository, options))
        return str(cache(hub_cache, TOWER) if len(asked) == 1 else hub_cache)

    monkeypatch.setattr("models.hub.hub_answers", lambda: is_online)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    fetch_folder(TOWER)
    local = {} if is_online else {"local_files_only": True}
    repository, _, revision = TOWER.partition("@")
    assert asked == [(repository, {"revision": revision, **local})] * 2


def test_a_run_is_refused_before_any_work(dataset: Path, tmp_path: Path) -> None:
    hub = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    given = {"MLLM3D_DATA": str(dataset), **hub}
    run = luigi(tmp_path, "RunAll", "--scene-set", "scannetpp", **given)
    assert run.returncode != 0 and "Traceback" not in run.stdout
    assert run.stdout.count("ERROR") == 1 and run.stdout.count("hf download") == 2, run.stdout
    assert not (tmp_path / "output").exists()


def test_only_stages_that_will_ask_the_teacher_need_weights(
    dataset: Path, hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {"scene_set": "scannetpp", "scene": SCENE}
    with WarmWorker(Scheduler()) as worker:
        assert worker.add(task_of(STEPS["prepare_scene"])(**asked))
    for task in (task_of(STEPS["run_teacher"])(**asked), CacheTeacherMasks(scene_set="scannetpp")):
        with WarmWorker(Scheduler()) as worker, pytest.raises(UserError, match="hf download"):
            worker.add(task)
    monkeypatch.setattr(task_of(STEPS["run_teacher"]), "complete", lambda _: True)
    with WarmWorker(Scheduler()) as worker:
        assert worker.add(task_of(STEPS["fuse_masks"])(**asked))


def test_experiments_are_named_from_any_folder(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path.cwd() / "smoke").mkdir()
    path = packaged_experiments()["smoke"]
    by_name, by_path = (load_plan("demo", config) for config in ("smoke", str(path)))
    assert by_name.experiment == by_path.experiment != load_plan("demo").experiment
    assert by_name.key("report") == by_path.key("report")
    shutil.copy(path, "mine.yaml")
    assert load_plan("demo", "mine.yaml").experiment == by_name.experiment
    shutil.copy(path, "mine")
    assert load_plan("demo", "mine").experiment == by_name.experiment
    assert absolute_config("smoke") == "smoke" and absolute_config("") == ""
    assert absolute_config("mine.yaml") == str(tmp_path / "elsewhere" / "mine.yaml")


def test_an_unknown_experiment_lists_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    known = "no experiment 'lysa'. Known experiments: lisa, smoke; "
    with pytest.raises(ConfigError, match=known):
        load_plan("demo", "lysa")
    with pytest.raises(ConfigError, match=known):
        TrainNanoTeacher(config="lysa")
    for command in ("plan", "status"):
        assert main([command, "--scene-set", "demo", "--config", "lysa"]) == 2
        assert known in capsys.readouterr().err
    assert main(["submit", "--scene-set", "demo", "--config", "lysa", "--array", "1"]) == 2
    assert known in capsys.readouterr().err
    with pytest.raises(ConfigError, match="unknown key teacher"):
        TrainNanoTeacher(config="lisa")
