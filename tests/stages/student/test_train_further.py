"""Training further from a finished student: what it starts with, resumption, and refusals."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from data.artifacts import store
from data.artifacts import student as artifact
from data.errors import ArtifactError, UserError
from tests.support.worlds.training_runs import CFG, Killed, killer, outcome, shallow, train

FURTHER = CFG.model_copy(update={"supervision": "oracle", "epochs": 2, "lr": 1e-3, "seed": 5})
STILL = FURTHER.model_copy(update={"epochs": 1, "lr": 1e-30, "weight_decay": 0.0})


def finish(folder: Path, fingerprint: str = "f" * 64) -> Path:
    (folder / store.METADATA).write_text(json.dumps({"fingerprint": fingerprint}))
    return folder


@pytest.fixture(scope="module", autouse=True)
def _shallow() -> Iterator[None]:
    """Training is of a network of one level."""
    with shallow():
        yield


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return finish(train(tmp_path_factory.mktemp("start")))


@pytest.fixture(scope="module")
def trained_further(start: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student that began with another, to read."""
    return finish(train(tmp_path_factory.mktemp("further"), STILL, start=start))


@pytest.fixture
def further(trained_further: Path, tmp_path: Path) -> Path:
    """A copy of it, to alter."""
    return Path(shutil.copytree(trained_further, tmp_path / "further"))


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    if not (folder / store.METADATA).exists():
        finish(folder)
    return artifact.read_model(folder)[0]


def test_training_starts_with_the_students_weights_whatever_the_seed(
    start: Path, trained_further: Path, tmp_path: Path
) -> None:
    before, after = weights_of(start), weights_of(trained_further)
    drawn = weights_of(train(tmp_path / "b", STILL))
    # Running means of normalisation move; what is learnt does not at such a rate.
    learnt = [name for name in before if "running" not in name and "num_batches" not in name]
    assert set(before) == set(after) and len(learnt) > 20
    for name in learnt:
        assert torch.equal(before[name], after[name]), name
    assert any(not torch.equal(before[name], drawn[name]) for name in learnt)


def test_killed_and_resumed_equals_uninterrupted(start: Path, tmp_path: Path) -> None:
    whole = outcome(train(tmp_path / "whole", FURTHER, start=start))
    with pytest.raises(Killed):
        train(tmp_path / "a", FURTHER, progress=killer(3), start=start)
    assert outcome(train(tmp_path / "a", FURTHER, start=start)) == whole
    assert whole != outcome(train(tmp_path / "new", FURTHER))


def test_a_checkpoint_of_another_start_is_refused(start: Path, tmp_path: Path) -> None:
    with pytest.raises(Killed):
        train(tmp_path / "a", FURTHER, progress=killer(3), start=start)
    other = finish(Path(shutil.copytree(start, tmp_path / "other")), "e" * 64)
    with pytest.raises(ArtifactError, match="another run"):
        train(tmp_path / "a", FURTHER, start=other)


def test_the_starts_network_counts_and_a_head_for_images_is_drawn_anew(
    start: Path, further: Path, tmp_path: Path
) -> None:
    wider = STILL.model_copy(update={"feature_dim": 16, "preset": "minkunet14"})
    folder = finish(train(tmp_path / "a", wider, start=start))
    network = artifact.read_model(folder)[1]["network"]
    assert network["feature_dim"] == 8 and network["preset"] == "nano"
    weights, config = artifact.read_model(further)
    config["network"]["image_dim"] = 3
    weights |= {"image_head.weight": torch.ones(3, 8), "image_head.bias": torch.ones(3)}
    artifact.write_model(further, weights, config)
    assert "image_head.bias" not in weights_of(train(tmp_path / "c", STILL, start=further))


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("token_dim", 9, "tokens of length 9.*have length 8"), ("voxel_size", 0.4, "voxels of 0.4 m")],
)
def test_a_start_that_does_not_fit_is_refused(
    further: Path, tmp_path: Path, key: str, value: Any, told: str
) -> None:
    config = yaml.safe_load((further / artifact.CONFIG).read_text())
    config["network" if key == "token_dim" else "training"][key] = value
    (further / artifact.CONFIG).write_text(yaml.safe_dump(config))
    with pytest.raises(UserError, match=told):
        train(tmp_path / "b", STILL, start=further)


@pytest.mark.parametrize("damage", ["missing", "unknown", "shape", "config"])
def test_a_damaged_start_is_refused_by_its_file(further: Path, tmp_path: Path, damage: str) -> None:
    weights, config = artifact.read_model(further)
    if damage == "missing":
        del weights["scale"]
    elif damage == "unknown":
        weights["scales"] = torch.ones(2)
    elif damage == "shape":
        weights["bias"] = torch.ones(3)
    else:
        del config["network"]
    artifact.write_model(further, weights, config)
    with pytest.raises(ArtifactError, match="config.yaml"):
        train(tmp_path / "b", STILL, start=further)
    with pytest.raises(ArtifactError, match="finished artifact"):
        train(tmp_path / "c", STILL, start=tmp_path / "nowhere")
