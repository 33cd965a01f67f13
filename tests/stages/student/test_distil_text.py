"""The text student: distilled without a label, and asked without an image."""

from __future__ import annotations

import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError

from data.errors import ConfigError, DataError, UserError
from data.types import Camera, View
from models.text_adapter import fit_adapter
from stages.network_configs import TeacherConfig, TextConfig
from stages.student import distil_text, text_encoding
from stages.student.distil_text import TextScene
from stages.student.text_encoding import encode_queries, make_words
from stages.teacher.identity import text_identity
from tests.support.worlds.text_folders import clip_folder, sentence_folder

Floats = NDArray[np.float32]
NANO = TeacherConfig()
ORACLE = TeacherConfig(name="oracle")
TEXTS = ("the chair", "the table", "a red lamp", "Where is the bed?", "the blue chair", "a bed")
FOLDERS = {"sentence": sentence_folder, "clip": clip_folder}


def _view(folder: Path, number: int) -> View:
    path = folder / f"{number}.png"
    pixels = np.random.default_rng(number).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    camera = Camera("PINHOLE", np.array([[50.0, 0, 30], [0, 50, 20], [0, 0, 1]]), 40, 60)
    return View(str(number), camera, np.eye(4), path)


def _tokens(rows: int, dim: int = 16, seed: int = 0) -> Floats:
    return np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)


def _unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def _scene(name: str, texts: tuple[str, ...], tokens: Floats, *views: View) -> TextScene:
    return TextScene(name, texts, tokens, views)


@pytest.mark.parametrize("encoder", FOLDERS)
def test_the_adapter_is_fitted_to_mean_tokens_of_each_text(encoder: Any, tmp_path: Path) -> None:
    cfg = TextConfig(encoder=encoder, weights=str(FOLDERS[encoder](tmp_path / "weights")))
    first, second = _tokens(4), _tokens(4, seed=1)
    second[1] = 0  # No view answered: nothing is learnt from it.
    second[3] = -5 * _unit(first[3]) / 5  # Cancels out what the first scene says of this text.
    scenes = [
        _scene("one", TEXTS[:4], first),
        _scene("two", (*TEXTS[:2], *TEXTS[4:5], TEXTS[3]), second),
    ]
    steps: list[tuple[int, int]] = []
    student = distil_text.run(scenes, cfg, ORACLE, "cpu", lambda *step: steps.append(step))
    assert steps == [(1, 2), (2, 2)]
    wanted = {
        TEXTS[0]: _unit(first[0]) + _unit(second[0]),
        TEXTS[1]: first[1],
        TEXTS[2]: first[2],
        TEXTS[4]: second[2],
    }
    features = text_encoding.encode_features(list(wanted), None, cfg, ORACLE, "cpu")
    fit = fit_adapter(features, np.stack(list(wanted.values())))
    np.testing.assert_allclose(student.weight, fit.adapter.weight, atol=1e-5)
    np.testing.assert_allclose(student.bias, fit.adapter.bias, atol=1e-5)
    assert student.left_out_cosine == pytest.approx(fit.left_out_cosine, abs=1e-5)
    assert (student.encoder, student.num_sentences, student.mean_tokens) == (encoder, 4, None)
    found, known = encode_queries(student, ["a new chair", TEXTS[0]], cfg, ORACLE, "cpu")
    assert known.tolist() == [1, 1]
    assert found.shape == (2, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@cache
def _nano_tokens() -> Floats:
    """Tokens as the teacher would give them: those of its own words, behind black."""
    words = make_words(NANO, "cpu")
    black = words.image_tokens(np.zeros((40, 60, 3), np.uint8))
    return _unit(words.encode(TEXTS, black))  # type: ignore[no-any-return]


def test_the_teachers_own_words_lead_back_to_its_tokens(tmp_path: Path) -> None:
    views = [_view(tmp_path, number) for number in range(5)]
    scenes = [
        _scene("one", TEXTS[:4], _nano_tokens()[:4], *views),
        _scene("two", TEXTS[2:], _nano_tokens()[2:]),
    ]
    student = distil_text.run(scenes, TextConfig(), NANO)
    words = make_words(NANO, "cpu")
    # Two of five pictures, at even distances.
    shown = [np.asarray(Image.open(views[index].image_path)) for index in (1, 3)]
    mean = torch.stack([words.image_tokens(image) for image in shown]).mean(0)
    assert student.mean_tokens is not None
    np.testing.assert_allclose(student.mean_tokens, mean.numpy(), atol=1e-6)
    assert student.mean_tokens.dtype == np.float32
    found, _ = encode_queries(student, TEXTS, TextConfig(), NANO, "cpu")
    assert (found * _nano_tokens()).sum(1).min() > 0.9
    tokens, known = encode_queries(student, ["the submarine", TEXTS[0]], TextConfig(), NANO, "cpu")
    assert known[0] < 0.5 < known[1] and np.allclose(tokens[1], found[0], atol=1e-5)
    again = distil_text.run(scenes[::-1], TextConfig(), NANO)
    assert np.array_equal(again.weight, student.weight)


def test_a_scene_with_fewer_pictures_gives_all(tmp_path: Path) -> None:
    scenes = [_scene("one", TEXTS, _nano_tokens(), _view(tmp_path, 0))]
    student = distil_text.run(scenes, TextConfig(images_per_scene=3), NANO)
    shown = np.asarray(Image.open(tmp_path / "0.png"))
    tokens = make_words(NANO, "cpu").image_tokens(shown).numpy()
    assert student.mean_tokens is not None
    np.testing.assert_allclose(student.mean_tokens, tokens, atol=1e-6)


def test_one_sentence_is_enough(tmp_path: Path) -> None:
    scenes = [_scene("one", TEXTS[:1], _nano_tokens()[:1], _view(tmp_path, 0))]
    student = distil_text.run(scenes, TextConfig(), NANO)
    assert (student.num_sentences, student.left_out_cosine) == (1, None)
    (chair, bed), _ = encode_queries(student, [TEXTS[0], "the bed"], TextConfig(), NANO, "cpu")
    assert chair @ _nano_tokens()[0] > 0.999
    assert bed @ chair < 0.9


def test_nothing_to_distil_is_refused(tmp_path: Path) -> None:
    cfg = TextConfig(encoder="sentence", weights=str(sentence_folder(tmp_path / "bert")))
    silent = _scene("one", TEXTS[:2], np.zeros((2, 16), np.float32))
    for scenes in ([], [silent], [_scene("none", (), _tokens(0))]):
        with pytest.raises(UserError, match="nothing to distil"):
            distil_text.run(scenes, cfg, ORACLE)
    with pytest.raises(UserError, match="tokens of one have length 16, those of two 8"):
        distil_text.run([silent, _scene("two", TEXTS[:1], _tokens(1, 8))], cfg, ORACLE)
    with pytest.raises(UserError, match="no view for a mean image"):
        distil_text.run([_scene("one", TEXTS, _nano_tokens())], TextConfig(), NANO)
    with pytest.raises(ValueError, match="2 texts"):
        _scene("one", TEXTS[:2], _tokens(3))


def test_a_picture_that_is_gone_is_named(tmp_path: Path) -> None:
    view = _view(tmp_path, 0)
    view.image_path.unlink()
    with pytest.raises(DataError, match="0.png"):
        distil_text.run([_scene("one", TEXTS, _nano_tokens(), view)], TextConfig(), NANO)


@pytest.mark.parametrize("name", ["oracle", "custom"])
def test_a_teacher_without_a_language_model_is_refused(name: Any) -> None:
    teacher = ORACLE if name == "oracle" else TeacherConfig.model_validate({"class": "own:Own"})
    told = "set text.encoder=sentence or text.encoder=clip, and text.weights"
    with pytest.raises(ConfigError, match=told):
        distil_text.run([], TextConfig(), teacher)
    with pytest.raises(ConfigError, match=told):
        text_identity(TextConfig(), teacher)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"encoder": "sentence"}, "needs text.weights"),
        ({"encoder": "clip"}, "needs text.weights"),
        ({"weights": "somewhere"}, "teacher.lisa.weights"),
        ({"images_per_scene": 0}, "images_per_scene"),
        ({"encoder": "bert"}, "encoder"),
    ],
)
def test_configs_that_make_no_sense_are_refused(content: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        TextConfig.model_validate(content)


def test_the_identity_is_the_content_of_the_weights(tmp_path: Path) -> None:
    here, there = sentence_folder(tmp_path / "here"), sentence_folder(tmp_path / "there")
    other = sentence_folder(tmp_path / "other", seed=1)
    one, same, changed = (
        text_identity(TextConfig(encoder="sentence", weights=str(folder)), ORACLE)
        for folder in (here, there, other)
    )
    assert one == same
    assert one[1] != changed[1]
    assert "weights" not in one[0]
    content, weights = text_identity(TextConfig(), NANO)
    assert (content["images_per_scene"], content["teacher"]["name"]) == (2, "lisa_nano")
    assert set(weights) == {"weights", "vision_tower"}
    missing = TextConfig(encoder="clip", weights=str(tmp_path / "nowhere"))
    with pytest.raises(UserError, match="nowhere: expected a folder of weights.*text.weights"):
        text_identity(missing, ORACLE)


def test_new_sentences_need_the_weights_of_then(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "bert")
    cfg = TextConfig(encoder="sentence", weights=str(folder))
    student = distil_text.run([_scene("one", TEXTS, _tokens(6))], cfg, ORACLE)
    moved = TextConfig(encoder="sentence", weights=str(folder.rename(tmp_path / "moved")))
    expected, _ = encode_queries(student, TEXTS, moved, ORACLE, "cpu")
    assert np.array_equal(expected, encode_queries(student, TEXTS, moved, ORACLE, "cpu")[0])
    assert encode_queries(student, [], moved, ORACLE, "cpu")[0].shape == (0, 16)
    other = TextConfig(encoder="sentence", weights=str(sentence_folder(tmp_path / "other", 1)))
    for wrong, teacher in ((other, ORACLE), (TextConfig(), NANO)):
        with pytest.raises(UserError, match="run DistilText again"):
            encode_queries(student, TEXTS, wrong, teacher, "cpu")


def test_an_encoder_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cfg = TextConfig(encoder="clip", weights=str(clip_folder(tmp_path / "clip")))
    student = distil_text.run([_scene("one", TEXTS, _tokens(6))], cfg, ORACLE)
    monkeypatch.setattr("models.text.ClipText", None)
    assert len(encode_queries(student, TEXTS, cfg, ORACLE, "cpu")[0]) == 6


def test_planning_reads_config_and_identity_without_heavy_imports() -> None:
    code = (
        "import sys; from stages.network_configs import TextConfig; "
        "from stages.network_configs import TeacherConfig; import stages.teacher.identity as t; "
        "t.text_identity(TextConfig(), TeacherConfig()); "
        "print(sorted({'torch', 'transformers', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
