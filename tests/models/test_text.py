"""Text encoders against plain numpy; LISA's language model behind a mean image."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, CLIPTextModelWithProjection, CLIPTokenizer

from data.errors import UserError
from data.rooms.snapshots import demo_pictures
from models.lisa.teacher import LisaTeacher, LisaWords
from models.text import ClipText, SentenceEncoder, TextEncoder
from stages.network_configs import TeacherConfig
from stages.teacher.make_teacher import make_teacher
from tests.support.worlds.lisa_golden import golden
from tests.support.worlds.text_folders import LONGEST, clip_folder, sentence_folder

TEXTS = ["the red chair", "a lamp", "Where is the blue table left of the bed ?", "the red chair"]
MAKERS: dict[str, tuple[Callable[..., Path], Callable[..., TextEncoder]]] = {
    "sentence": (sentence_folder, SentenceEncoder),
    "clip": (clip_folder, ClipText),
}


def test_a_sentence_is_the_mean_of_its_states(tmp_path: Path) -> None:
    folder = sentence_folder(tmp_path / "bert")
    encoder = SentenceEncoder(folder)
    found = encoder.encode(TEXTS)
    assert encoder.dim == 32
    assert found.shape == (4, 32)
    assert found.dtype == np.float32
    model, tokenizer = AutoModel.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(
        folder
    )
    for row, text in zip(found, TEXTS, strict=True):
        with torch.no_grad():
            # One text alone needs no filling, so no mask either.
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].numpy()
        mean = states.astype(np.float64).mean(0)
        np.testing.assert_allclose(row, mean / np.linalg.norm(mean), atol=1e-5)


def test_clip_gives_its_projected_unit_vectors(tmp_path: Path) -> None:
    folder = clip_folder(tmp_path / "clip")
    encoder = ClipText(folder)
    found = encoder.encode(TEXTS)
    assert encoder.dim == 20
    assert found.shape == (4, 20)
    assert found.dtype == np.float32
    model: Any = CLIPTextModelWithProjection.from_pretrained(folder)
    model.eval()
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    for row, text in zip(found, TEXTS, strict=True):
        ids = tokenizer(text, truncation=True, max_length=LONGEST, return_tensors="pt").input_ids
        with torch.no_grad():
            states = model.text_model(ids).last_hidden_state[0, -1].numpy()
        projected = model.text_projection.weight.detach().numpy() @ states
        np.testing.assert_allclose(row, projected / np.linalg.norm(projected), atol=1e-5)


@pytest.mark.parametrize("kind", MAKERS)
def test_encoders_keep_the_protocol(kind: str, tmp_path: Path) -> None:
    write, make = MAKERS[kind]
    encoder = make(write(tmp_path / kind))
    together = encoder.encode(TEXTS)
    assert np.array_equal(together, encoder.encode(TEXTS))
    assert np.array_equal(together[0], together[3])
    assert encoder.encode([]).shape == (0, encoder.dim)
    odd = ["", " ", "chair " * 300, "椅子", "\ud800", *(f"the chair {'a' * n}" for n in range(70))]
    assert np.isfinite(encoder.encode(odd)).all()
    for row, text in zip(together, TEXTS, strict=True):
        np.testing.assert_allclose(encoder.encode([text])[0], row, atol=1e-5)


def _without(name: str) -> Callable[[Path], object]:
    return lambda folder: (folder / name).unlink()


def _without_a_layer(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))


def _cut_short(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize(
    "damage", [_without("config.json"), _without("model.safetensors"), _without_a_layer, _cut_short]
)
def test_a_folder_that_is_not_whole_is_one_clear_error(
    kind: str, damage: Callable[[Path], object], tmp_path: Path
) -> None:
    write, make = MAKERS[kind]
    damage(write(tmp_path / kind))
    with pytest.raises(UserError, match="text.weights: no text encoder can be read from") as told:
        make(tmp_path / kind)
    assert str(tmp_path / kind) in str(told.value)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_missing_folder_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Give a folder with config.json"):
        MAKERS[kind][1](tmp_path / "nowhere")


def test_a_model_of_pictures_is_no_sentence_encoder() -> None:
    # The teacher's CLIP tower: transformers can read it, but it encodes no text.
    tower = golden("v1").checkpoint.parent / "clip-vit-tiny"
    with pytest.raises(UserError, match="text.weights"):
        SentenceEncoder(tower)


@cache
def _teacher() -> LisaTeacher:
    teacher = make_teacher(TeacherConfig(), "cpu")
    assert isinstance(teacher, LisaTeacher)
    return teacher


@cache
def _words() -> LisaWords:
    return LisaWords(_teacher().loaded, _teacher().settings)


@cache
def _mean_tokens() -> Tensor:
    images = demo_pictures((3, 1), "bedroom", 2, 0.2).images
    return torch.stack([_words().image_tokens(image) for image in images]).mean(0)


def _cosine(one: NDArray[np.float32], other: NDArray[np.float32]) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


def test_nano_knows_words_behind_a_mean_image() -> None:
    chair, please, bed, where = _words().encode(
        ["the chair", "a chair, please", "the bed", "Where is the chair?"], _mean_tokens()
    )
    assert chair.dtype == np.float32
    assert chair.shape == (_words().dim,)
    assert min(_cosine(chair, please), _cosine(chair, where)) > 0.9
    assert max(_cosine(chair, bed), _cosine(please, bed)) < 0.5


def test_nano_refuses_what_it_does_not_know() -> None:
    known = ["the chair", "where can I sleep?", "find the wardrobe"]
    strange = ["the submarine", "what is the capital of peru?", "hgfd sdfkj", "not the sofa"]
    texts = known + strange
    embeddings, how_well = _words().encode_and_judge(texts, _mean_tokens())
    assert np.array_equal(embeddings, _words().encode(texts, _mean_tokens()))
    assert (how_well >= 0.5).tolist() == [True] * len(known) + [False] * len(strange)
    assert how_well.max() <= 1 and how_well.min() >= 0


def test_words_are_the_same_twice_and_in_any_company() -> None:
    texts = ["the chair", "Find the lamp on the left of the bed.", "x", "", "the chair"]
    together = _words().encode(texts, _mean_tokens())
    assert np.array_equal(together, _words().encode(texts, _mean_tokens()))
    assert np.array_equal(together[0], together[4])
    for row, text in zip(together, texts, strict=True):
        np.testing.assert_allclose(_words().encode([text], _mean_tokens())[0], row, atol=1e-4)
    assert _words().encode([], _mean_tokens()).shape == (0, _words().dim)


@pytest.mark.parametrize("name", ["v1", "plus"])
def test_behind_one_picture_words_are_what_the_teacher_says_of_it(name: str) -> None:
    # Of a [SEG] its embedding, of an answer without one that which it came nearest to.
    run = golden(name)
    teacher = run.teacher(whole_answer=False)
    words = LisaWords(teacher.loaded, teacher.settings)
    seen = set()
    for image in range(run.num_images):
        texts = [sample["question"] for sample in run.samples(image).values()]
        found = words.encode(texts, words.image_tokens(run.image(image)))
        answers = teacher.answer(run.view(image), texts)
        for row, answer in zip(found, answers, strict=True):
            seen.add(len(answer.seg_embeddings))
            if answer.withheld is not None:
                np.testing.assert_allclose(row, answer.withheld.seg_embedding, atol=1e-5)
            else:
                np.testing.assert_allclose(row, answer.seg_embeddings[0], atol=1e-5)
    assert 1 in seen and (name != "v1" or 0 in seen)


def test_words_refuse_what_cannot_be_read() -> None:
    with pytest.raises(UserError, match="shorten the query"):
        _words().encode(["chair, " * 3000], _mean_tokens())
    with pytest.raises(ValueError, match="mean_tokens must be"):
        _words().encode(["the chair"], _mean_tokens()[:, :-1])
    with pytest.raises(UserError, match="max_new_tokens"):
        LisaWords(golden("v1").loaded, golden("v1").settings(max_new_tokens=0))
