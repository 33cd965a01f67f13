"""LISA's tokenizer and golden prompts against golden ids, laws, and files that are broken."""

from __future__ import annotations

import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import DataError
from models.lisa import tokenizer
from models.lisa.prompts import build_prompt
from models.lisa.tokenizer import IMAGE_TOKEN_ID, LisaTokenizer

GOLDEN = Path(__file__).parents[2] / "golden" / "lisa"
SETS = ("v1", "plus")
FRAGMENTS = ("<image>", "[SEG]", "<im_start>", "<im", "age>", " ", "\n", "a", "é", "▁", "</s>", ".")
ANY_CHARACTER = st.characters(exclude_categories=())
WILD = st.text(ANY_CHARACTER) | st.lists(st.sampled_from(FRAGMENTS)).map("".join)


@cache
def _golden(name: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((GOLDEN / name / "golden.json").read_text("utf-8"))
    with np.load(GOLDEN / name / "tensors.npz") as file:
        for index, sample in enumerate(content["samples"]):
            for key in ("input_ids", "output_ids"):
                sample[key] = file[f"sample{index}__{key}"].tolist()
    return content


@cache
def _tokenizer(name: str = "v1", legacy: bool = True) -> LisaTokenizer:
    read = LisaTokenizer.from_folder(GOLDEN / name / "checkpoint")
    assert read.legacy
    return read if legacy else LisaTokenizer(read._pieces, read.added, legacy=False)


CASES: list[dict[str, Any]] = json.loads(
    (GOLDEN / "v1" / "tokenizer_cases.json").read_text("utf-8")
)["cases"]
SAMPLES = [(name, index) for name in SETS for index in range(len(_golden(name)["samples"]))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tokenizer's files, to break."""
    for name in ("tokenizer.model", "added_tokens.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / "v1" / "checkpoint" / name, tmp_path / name)
    return tmp_path


def _prompt(name: str, sample: dict[str, Any], answer: str | None = None) -> str:
    golden = _golden(name)
    question, conversation = sample["question"], golden["conv_type"]
    return build_prompt(question, conversation, golden["use_im_start_end"], answer)


# Golden ids


def test_there_are_32_cases_half_of_them_legacy() -> None:
    assert [case["legacy"] for case in CASES] == [True] * 16 + [False] * 16


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['legacy']}-{case['text']!r:.30}")
def test_ids_of_the_slow_llama_tokenizer(case: dict[str, Any]) -> None:
    assert _tokenizer(legacy=case["legacy"]).encode(case["text"]) == case["ids"]


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_golden_prompts_give_their_text_and_ids(name: str, index: int) -> None:
    sample = _golden(name)["samples"][index]
    assert _prompt(name, sample) == sample["prompt"]
    assert _tokenizer(name).encode(sample["prompt"]) == sample["input_ids"]


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_golden_answers_decode_to_their_text(name: str, index: int) -> None:
    sample = _golden(name)["samples"][index]
    text, spans = _tokenizer(name).spans(sample["output_ids"][len(sample["input_ids"]) :])
    assert text == sample["answer"]
    assert len(spans) == sample["n_seg"]
    assert {text[start:end] for start, end in spans} <= {"[SEG]"}


@pytest.mark.parametrize(("name", "index"), SAMPLES)
def test_forcing_a_golden_answer_gives_the_ids_the_model_generated(name: str, index: int) -> None:
    sample = _golden(name)["samples"][index]
    forced = _tokenizer(name).encode(_prompt(name, sample, sample["answer"]))
    assert forced == sample["output_ids"]
    positions = [at for at, id_ in enumerate(forced) if id_ == _tokenizer(name).seg_id]
    assert positions == sample["seg_positions_in_output_ids"]


def test_whitespace_kept_around_added_tokens_breaks_the_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with_ends, without = _golden("v1")["samples"][0], _golden("plus")["samples"][0]
    monkeypatch.setattr(tokenizer, "_eat_whitespace", lambda parts, _: [x for x in parts if x])
    kept = _tokenizer("v1").encode(with_ends["prompt"])
    assert kept != with_ends["input_ids"]
    assert len(kept) > len(with_ends["input_ids"])
    # Without start and end tokens no added token touches the text: nothing to tell apart.
    assert _tokenizer("plus").encode(without["prompt"]) == without["input_ids"]


def test_added_ids_are_read_not_assumed(folder: Path) -> None:
    """The order of LISA-13B and LISA++: [SEG] first."""
    other = {"[SEG]": 512, "<im_start>": 513, "<im_end>": 514}
    (folder / "added_tokens.json").write_text(json.dumps(other))
    sample = _golden("v1")["samples"][0]
    swap = {other_id: _tokenizer().added[name] for name, other_id in other.items()}
    read = LisaTokenizer.from_folder(folder)
    ids = read.encode(sample["prompt"] + " Sure, it is [SEG].</s>")
    assert (read.pad_id, read.bos_id, read.eos_id, read.seg_id) == (0, 1, 2, 512)
    assert [swap.get(id_, id_) for id_ in ids] == sample["output_ids"]
    assert read.decode(ids[-9:]).endswith("it is [SEG].")
    # Unknown to this checkpoint, it is a text like any other.
    assert len(read.encode("<im_patch>")) > 2


def test_the_longest_added_token_wins() -> None:
    read = LisaTokenizer(_tokenizer()._pieces, {"[SEG]": 512, "[SEG]s": 513}, legacy=True)
    assert read.encode("[SEG]s [SEG]") == [1, 513, 512]


# Decoding


def test_decoding_leaves_out_what_is_no_text() -> None:
    read = _tokenizer()
    ids = [*read.encode("Sure, it is [SEG]."), read.eos_id, read.pad_id, 516, 10**9, -100, -1]
    assert read.decode(ids) == "Sure, it is [SEG]."
    assert read.decode(np.array(ids).tolist()) == "Sure, it is [SEG]."
    word_boundary = read._pieces.piece_to_id("\u2581")
    spaced = [word_boundary, *read.encode("Sure"), *2 * [word_boundary], read.seg_id, word_boundary]
    assert read.decode(spaced) == "Sure [SEG]"
    assert read.spans([]) == ("", [])
    assert read.spans([1, 2, 0]) == ("", [])


def test_decoding_shows_the_image_and_its_tokens() -> None:
    read = _tokenizer()
    assert IMAGE_TOKEN_ID in (ids := read.encode("USER: <im_start><image><im_end>\nHi"))
    assert read.decode(ids) == "USER: <im_start> <image> <im_end> Hi"


def test_spans_point_at_real_tokens_only() -> None:
    read = _tokenizer()
    spelled = read._pieces.encode("[SEG]") + read.encode_part("is [SEG] and ([SEG]), [SEG]", False)
    text, spans = read.spans(spelled)
    assert text == "[SEG] is [SEG] and ([SEG]), [SEG]"
    assert spans == [(9, 14), (20, 25), (28, 33)]


@given(WILD, st.booleans())
def test_encoding_never_crashes_on_wild_text(text: str, legacy: bool) -> None:
    read = _tokenizer(legacy=legacy)
    ids = read.encode(text)
    assert ids[0] == read.bos_id
    assert ids.count(IMAGE_TOKEN_ID) == text.count("<image>")
    assert read.encode_part(text, True) == [read.bos_id, *read.encode_part(text, False)]
    read.decode(ids).encode("utf-8")


@given(st.lists(st.integers(-300, 600) | st.sampled_from([515, 2, 473, 231, 13])), st.booleans())
def test_decoding_never_crashes_and_finds_every_seg(ids: list[int], legacy: bool) -> None:
    text, spans = _tokenizer(legacy=legacy).spans(ids)
    assert [text[start:end] for start, end in spans] == ["[SEG]"] * ids.count(515)
    assert text == text.strip(" ")


@given(st.lists(st.sampled_from(["Sure", "the lamp", "it is", "[SEG]", "café", "你好", "and"])))
def test_what_is_decoded_encodes_to_the_same_ids(words: list[str]) -> None:
    for text in (" ".join(words), ", ".join(words) + "."):
        ids = _tokenizer().encode(text)
        assert _tokenizer().encode(_tokenizer().decode(ids)) == ids


# Files that are missing or broken


def _refused(folder: Path, name: str) -> str:
    with pytest.raises(DataError) as caught:
        LisaTokenizer.from_folder(folder)
    message = str(caught.value)
    assert message.startswith(str(folder / name))
    assert "expected" in message and "found" in message and "Fetch" in message
    return message


@pytest.mark.parametrize("name", ["tokenizer.model", "added_tokens.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    assert "no such file" in _refused(folder, name)


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n", None])
def test_a_damaged_model_is_named(folder: Path, content: bytes | None) -> None:
    path = folder / "tokenizer.model"
    path.write_bytes(path.read_bytes()[:3000] if content is None else content)
    _refused(folder, "tokenizer.model")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        '{"[SEG]": "515"}',
        '{"[SEG]": true}',
        '{"[SEG]": 5}',
        '{"[SEG]": 512, "": 513}',
    ]
    + ['{"[SEG]": 512, "<im_start>": 512}'],
)
def test_damaged_added_tokens_are_named(folder: Path, content: str) -> None:
    (folder / "added_tokens.json").write_text(content)
    _refused(folder, "added_tokens.json")


def test_a_checkpoint_without_seg_is_no_teacher(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"<im_start>": 512}')
    with pytest.raises(DataError, match=r"LLaVA checkpoint has no \[SEG\]"):
        LisaTokenizer.from_folder(folder)


@pytest.mark.parametrize("content", ["", "{]", "[1]", '{"legacy": "yes"}', '"legacy"', "true"])
def test_a_damaged_tokenizer_config_is_named(folder: Path, content: str) -> None:
    (folder / "tokenizer_config.json").write_text(content)
    _refused(folder, "tokenizer_config.json")


@pytest.mark.parametrize(
    ("content", "legacy"),
    [(None, True), ("{}", True), ('{"legacy": null}', True), ('{"legacy": false}', False)],
)
def test_legacy_is_true_unless_denied(folder: Path, content: str | None, legacy: bool) -> None:
    path = folder / "tokenizer_config.json"
    path.unlink() if content is None else path.write_text(content)
    assert LisaTokenizer.from_folder(folder).legacy is legacy
