"""``luigi --module pipeline TrainNanoTeacher``, from nothing to a folder that answers.

The network has the parts of LISA-nano, one narrow layer of each.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import yaml

from data.errors import DataError
from data.queries.vocabulary import read_words, unmet_words
from data.rooms.teacher_sentences import load_exam
from models.lisa import trainee
from models.lisa.checkpoint import Refusal, load_lisa
from models.lisa.teacher import LisaSettings, LisaTeacher, LisaWords
from pipeline.tasks.nano import NanoTraining
from stages.nano import prepare, train
from stages.nano.finish import refusal_threshold
from stages.teacher.identity import NANO
from tests.support import warm
from tests.support.cli import REPOSITORY, command, environment, luigi, tasks_done
from tests.support.worlds.nano_world import office, small_config

OVERRIDES = (
    "pictures.shards=1,pictures.rooms_per_shard=1,pictures.views=2,pictures.vertex_spacing=0.3,"
    "train.tower_steps=1,train.joint_steps=1,train.wording_steps=1,train.batch=2,train.queries=2,"
    "exam.rooms=1,exam.views=1,exam.questions=2,exam.strangers=3"
)


@dataclass(frozen=True)
class Made:
    """A finished run: where it was started, what it printed and the checkpoint folder."""

    folder: Path
    printed: str

    @property
    def checkpoint(self) -> Path:
        stage = self.folder / "output" / "lisa_nano" / "nano_teacher"
        (made,) = [path for path in stage.iterdir() if path.is_dir()]
        return made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("nano")
    module = "tests.support.worlds.small_nano"
    line = command("TrainNanoTeacher", "--overrides", OVERRIDES, module=module)
    env = environment(folder / "output", PYTHONPATH=str(REPOSITORY))
    run = warm.forker().run(line, folder, env)
    assert run.returncode == 0, run.stdout
    return Made(folder, run.stdout)


def test_each_step_is_taken_once(made: Made) -> None:
    assert tasks_done(made.printed) == {"NanoPictures": 1, "NanoTraining": 1, "TrainNanoTeacher": 1}


def test_the_folder_is_a_checkpoint_that_answers(made: Made) -> None:
    teacher = LisaTeacher(load_lisa(made.checkpoint), LisaSettings(), "nano")
    image = np.ascontiguousarray(office().images[0])
    view = teacher.encode_view(image, "0")
    (answer,) = teacher.answer(view, ["the chair"])
    grid = teacher.mask_grid(*image.shape[:2])
    assert grid.extent == (60, 40)
    assert answer.mask_logits.shape[1:] == (60, 60)
    # CLIP sees the picture squashed, as it did in training: nothing of its sides is lost.
    transform = load_lisa(made.checkpoint).clip_transform
    assert (transform.resize_to, transform.crop) == ((224, 224), None)


def test_the_refusal_keeps_the_share_of_known_sentences(made: Made) -> None:
    refusal = load_lisa(made.checkpoint).refusal
    assert refusal is not None and refusal.words == "unknown thing"
    pictures = office()
    kept = {
        share: refusal_threshold(made.checkpoint, [pictures], share) for share in (0.5, 0.9, 1.0)
    }
    assert 0 < kept[0.5] <= kept[0.9] <= kept[1.0] <= 1
    images = [np.asarray(image) for image in pictures.images]
    loaded = replace(load_lisa(made.checkpoint), refusal=Refusal("unknown thing", kept[0.9]))
    words = LisaWords(loaded, LisaSettings())
    mean = torch.stack([words.image_tokens(image) for image in images]).mean(0)
    texts = [text for said in load_exam("tuning").present.values() for text in said]
    known = words.encode_and_judge(texts, mean)[1]
    assert np.mean(known >= 0.5) == pytest.approx(0.9, abs=0.02)


def test_the_card_tells_how_it_was_made_and_how_good_it_is(made: Made) -> None:
    card = (made.checkpoint / "README.md").read_text(encoding="utf-8")
    assert f"luigi --module pipeline TrainNanoTeacher --overrides {OVERRIDES}" in card
    text = (made.checkpoint / "figures.json").read_text(encoding="utf-8")
    assert "NaN" not in text  # No other reader of JSON would take it.
    told = json.loads(text)
    tables = told["tables"]
    assert {"words", "pictures", "kind", "strangers", "label", "size"} == set(tables)
    # One clean and one scanned picture.
    assert tables["words"]["seen"]["answers"] == tables["words"]["held out"]["answers"] == 4
    assert sum(group["answers"] for group in tables["strangers"].values()) == 6
    assert {"clean", "scanned"} == set(tables["pictures"])
    assert f"{told['summary']['names']:.3f}" in card
    assert " nan " not in card and "None" not in card
    assert "3 steps of 2 pictures with 2 questions each" in card


def test_the_folder_tells_which_words_were_met(made: Made) -> None:
    met = read_words(made.checkpoint)
    assert met is not None
    assert unmet_words("where is the reddish zebra?", met) == ("reddish", "zebra")
    assert unmet_words("all the wardrobes, please", met) == ()


def test_training_goes_on_from_a_folder(made: Made) -> None:
    before = load_lisa(made.checkpoint)
    with patch.object(trainee, "nano_config", small_config):
        network = train._network(before.tokenizer, str(made.checkpoint))
    assert all(weights.requires_grad for weights in network.parameters())
    for name, tensor in before.network.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name], tensor, rtol=0, atol=0)
    with pytest.raises(DataError, match="sizes of LISA-nano"):
        train._network(before.tokenizer, str(made.checkpoint))


def test_the_start_gives_the_tokenizer_and_is_part_of_the_identity(
    made: Made, tmp_path: Path
) -> None:
    prepare.run(tmp_path / "tokenizer", str(made.checkpoint))
    for name in prepare.TOKENIZER_FILES:
        assert (tmp_path / "tokenizer" / name).read_bytes() == (made.checkpoint / name).read_bytes()
    starts = ("", f",train.start={made.checkpoint}", f",train.start={NANO}")
    keys = [NanoTraining(overrides=OVERRIDES + start).key().fingerprint for start in starts]
    assert len(set(keys)) == 3


def test_a_second_run_has_nothing_to_do(made: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*") if path.is_file()}
    again = luigi(made.folder, "TrainNanoTeacher", "--overrides", OVERRIDES)
    assert again.returncode == 0, again.stdout
    assert not tasks_done(again.stdout)
    after = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*") if path.is_file()}
    assert before == after


@pytest.mark.parametrize(
    "overrides, told",
    [
        ("train.tower_step=1", "unknown key train.tower_step; did you mean train.tower_steps?"),
        ("exam.rooms=0", "exam.rooms"),
        ("student.lr=0.1", "unknown key student"),
    ],
)
def test_a_wrong_setting_is_refused_before_any_work(
    tmp_path: Path, overrides: str, told: str
) -> None:
    run = luigi(tmp_path, "TrainNanoTeacher", "--overrides", overrides)
    assert run.returncode != 0
    assert told in run.stdout and run.stdout.count("--overrides:") == 1
    assert "Traceback" not in run.stdout
    assert not (tmp_path / "output").exists()


def test_settings_in_a_file_count_too(tmp_path: Path) -> None:
    file = tmp_path / "nano.yaml"
    file.write_text(yaml.safe_dump({"train": {"batches": 3}}))
    run = luigi(tmp_path, "TrainNanoTeacher", "--config", str(file))
    assert run.returncode != 0
    assert f"{file}: unknown key train.batches; did you mean train.batch?" in run.stdout
