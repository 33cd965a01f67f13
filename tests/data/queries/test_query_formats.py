"""Query files of every format: what a hand-made one says, and what is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.formats import DEFAULT_FORMAT, FORMATS, FormatName
from data.queries.prompts import PromptRecord
from tests.support.query_files import SAMPLES, Known, write

NAMES: list[FormatName] = list(FORMATS)
OTHER_BYTES = (0x00, 0x22, 0x2D, 0x5B, 0x7D)
WILD = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**33), 2**33)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[]), max_size=6)
    | st.sampled_from(["12", "-3", " 7", "٣", "99999999999", "\ud800", " \n"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)


def only(record: PromptRecord) -> Known:
    return Known(record.scene_id, record.text, record.task, record.raw_ids, record.object_name)


def test_every_format_has_a_name_and_a_sample() -> None:
    assert set(NAMES) == set(get_args(FormatName)) == set(SAMPLES)
    assert DEFAULT_FORMAT == "instruct3d"


@pytest.mark.parametrize("name", NAMES)
def test_a_file_is_read_as_it_stands(tmp_path: Path, name: FormatName) -> None:
    sample = SAMPLES[name]
    path = write(tmp_path / "queries.json", sample.records)
    records = FORMATS[name].read(path)
    assert [only(record) for record in records] == sample.known
    assert {record.id_space for record in records} == {sample.id_space}
    assert [(record.source, record.number) for record in records] == [
        (path, number) for number in range(len(sample.known))
    ]
    assert all(record.may_lack_objects == (name == "surprise3d") for record in records)
    scenes = [next(r[key] for key in FORMATS[name].scene_keys if key in r) for r in sample.records]
    assert scenes == [known.scene_id for known in sample.known]


def test_a_file_about_two_datasets_says_which(tmp_path: Path) -> None:
    path = write(tmp_path / "queries.json", SAMPLES["reason3d"].records)
    assert [record.dataset for record in FORMATS["reason3d"].read(path)] == ["scannet", "mp3d"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_record_needs_is_named_when_it_is_not_there(
    tmp_path: Path, name: FormatName
) -> None:
    sample = SAMPLES[name]
    optional = {"image", "images", "ann_id", "token", "task"}
    optional |= {"object_name"} & set(() if sample.known[0].object_name else ("object_name",))
    for key in set(sample.records[0]) - optional:
        record = {k: value for k, value in sample.records[0].items() if k != key}
        path = write(tmp_path / "queries.json", [*sample.records, record])
        with pytest.raises(DataError) as caught:
            FORMATS[name].read(path)
        message = str(caught.value)
        assert str(path) in message and key in message, message
        assert f"record {len(sample.records)}" in message


@pytest.mark.parametrize(
    ("name", "change", "hint"),
    [
        ("reason3d", {"type": "scannet++"}, "scannet, mp3d"),
        ("reason3d", {"object_id": [1, 2]}, "1 ids"),
        ("reason3d_search", {"scene_name": "8194nk5LbLH"}, "_region"),
        ("reason3d_search", {"scene_name": "../x_region1"}, "_region"),
        ("scanrefer", {"object_id": ["1", "2"]}, "1 ids"),
        ("scanrefer", {"object_id": []}, "1 ids"),
        ("multi3drefer", {"eval_type": "st_w_d"}, "1 ids"),
        ("multi3drefer", {"eval_type": "zt_w_d"}, "0 ids"),
        ("multi3drefer", {"object_ids": [1]}, "at least 2"),
        ("multi3drefer", {"eval_type": "many"}, "zt_wo_d"),
        ("intent3d", {"target_id": [[]]}, "at least 1"),
        ("surprise3d", {"question_type": ""}, "question_type"),
        ("surprise3d", {"object_name": ["x"]}, "object_name"),
    ],
)
def test_what_a_format_does_not_allow_is_refused(
    tmp_path: Path, name: FormatName, change: dict[str, Any], hint: str
) -> None:
    path = write(tmp_path / "queries.json", [{**SAMPLES[name].records[0], **change}])
    with pytest.raises(DataError, match=hint):
        FORMATS[name].read(path)


@pytest.mark.parametrize("name", NAMES)
def test_ids_are_not_cut_to_few_bits_and_those_that_were_are_refused(
    tmp_path: Path, name: FormatName
) -> None:
    sample, path = SAMPLES[name], tmp_path / "queries.json"
    for large in (128, 200, 255, 32768, 40000, 2**31 - 1):
        ids = [large] if sample.most == 1 or sample.least < 2 else [large, 1]
        record = {**sample.records[0], sample.ids_key: ids}
        assert FORMATS[name].read(write(path, [record]))[0].raw_ids == tuple(ids)
    for wrapped in (-56, -1, 2**31):  # 200 and 255 in int8.
        ids = [wrapped] if sample.most == 1 else [wrapped, 1]
        with pytest.raises(DataError, match="to int8" if wrapped < 0 else "2147483647"):
            FORMATS[name].read(write(path, [{**sample.records[0], sample.ids_key: ids}]))


@pytest.mark.parametrize("name", NAMES)
def test_a_cut_file_is_refused_wherever_it_is_cut(tmp_path: Path, name: FormatName) -> None:
    path = tmp_path / "queries.json"
    content = json.dumps(SAMPLES[name].records).encode()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match="queries.json"):
            FORMATS[name].read(path)


@pytest.mark.parametrize("name", NAMES)
def test_any_byte_may_be_another(tmp_path: Path, name: FormatName) -> None:
    path = tmp_path / "queries.json"
    content = json.dumps(SAMPLES[name].records).encode()
    refused = 0
    for place in range(len(content)):
        for byte in (0xFF, OTHER_BYTES[place % len(OTHER_BYTES)]):
            path.write_bytes(content[:place] + bytes([byte]) + content[place + 1 :])
            try:
                records = FORMATS[name].read(path)
            except DataError as error:
                refused += 1
                assert str(path) in str(error)
            else:
                assert len(records) == len(SAMPLES[name].records)
    assert refused > len(content)  # 0xFF is allowed nowhere.


def _leaves(value: Any) -> list[Any]:
    return (
        [leaf for item in value for leaf in _leaves(item)] if isinstance(value, list) else [value]
    )


def _expected_ids(value: Any, loose: bool) -> list[int] | None:
    """What a value must be read as; None for one that is no ids."""
    leaves = _leaves(value) if loose else value if isinstance(value, list) else [value]
    ids: list[int] = []
    for leaf in leaves:
        if loose and type(leaf) is str and 0 < len(leaf) < 11 and set(leaf) <= set("0123456789"):
            leaf = int(leaf)
        if type(leaf) is not int or not 0 <= leaf < 2**31 or (leaf in ids and not loose):
            return None
        ids += [leaf] if leaf not in ids else []
    return ids


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, suppress_health_check=list(HealthCheck), deadline=None)
@given(value=WILD)
def test_whatever_stands_in_a_field_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, name: FormatName, value: Any
) -> None:
    sample = SAMPLES[name]
    path = tmp_path_factory.getbasetemp() / f"{name}.json"
    for key in (sample.text_key, sample.ids_key, sample.scene_key, "object_name"):
        write(path, [{**sample.records[0], key: value}])
        ids = _expected_ids(value, sample.loose) if key == sample.ids_key else None
        if ids is None or len(ids) < sample.least or (sample.most and len(ids) > sample.most):
            ids = None
        is_text = isinstance(value, str) and bool(value.strip()) and not _halves(value)
        try:
            (record,) = FORMATS[name].read(path)
        except DataError as error:
            assert str(path) in str(error) and "record 0" in str(error) and key in str(error)
            str(error).encode()
            assert not (key == sample.text_key and is_text) and ids is None
        else:
            if key == sample.text_key:
                assert is_text and record.text == value.strip()
            elif key == sample.ids_key:
                assert ids is not None and list(record.raw_ids) == ids
            elif key == sample.scene_key:
                assert record.scene_id == value.strip()
            else:
                assert record.object_name == (value or "").strip()


def _halves(text: str) -> bool:
    return any(0xD800 <= ord(letter) <= 0xDFFF for letter in text)


@pytest.mark.parametrize("name", NAMES)
def test_no_list_of_queries_is_refused(tmp_path: Path, name: FormatName) -> None:
    path = tmp_path / "queries.json"
    for content in (
        "",
        "[]",
        "{}",
        "[1]",
        "[[]]",
        "null",
        "[NaN]",
        "[" * 5000,
        "[" * 700 + "]" * 700,
    ):
        path.write_text(content)
        with pytest.raises(DataError, match="queries.json"):
            FORMATS[name].read(path)
    with pytest.raises(DataError, match="no such file"):
        FORMATS[name].read(tmp_path / "none.json")


@pytest.mark.parametrize("name", NAMES)
def test_queries_that_come_twice_are_kept_and_told(
    tmp_path: Path, name: FormatName, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "queries.json", SAMPLES[name].records * 2)
    with caplog.at_level(logging.WARNING):
        assert len(FORMATS[name].read(path)) == 2 * len(SAMPLES[name].records)
    assert f"{len(SAMPLES[name].records)} queries repeat" in caplog.text


def test_a_search_that_names_no_room_is_kept_and_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = SAMPLES["reason3d_search"].records[0]
    path = write(tmp_path / "q.json", [first, {**first, "question": "Where to sit?"}])
    with caplog.at_level(logging.WARNING):
        assert len(FORMATS["reason3d_search"].read(path)) == 2
    assert "1 questions name no room" in caplog.text
