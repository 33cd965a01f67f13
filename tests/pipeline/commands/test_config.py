"""Configs: layers, overrides, and refusals that name source, key and the nearest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import ConfigError
from pipeline.config import merge, nearest_key, parse_overrides, read_yaml_mapping, valid_keys
from pipeline.plan import load_experiment
from stages.configs import Experiment


def refused(text: str) -> str:
    """The message with which an overrides string is refused."""
    with pytest.raises(ConfigError) as caught:
        load_experiment([("--overrides", parse_overrides(text))])
    return str(caught.value)


def test_later_layers_win_and_leave_the_rest_alone() -> None:
    experiment = load_experiment(
        [
            ("set", {"student": {"lr": 0.5, "epochs": 3}}),
            ("file", {"student": {"lr": 0.25}}),
            ("--overrides", parse_overrides("student.lr=0.02, fuse.views=all")),
        ]
    )
    assert experiment.student.lr == 0.02
    assert experiment.student.epochs == 3
    assert experiment.fuse.views == "all"
    assert experiment.link == Experiment().link


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "0.001", ".001", "1.0e-3", "+1e-3"])
def test_numbers_are_read_as_people_write_them(text: str) -> None:
    cfg = load_experiment([("--overrides", parse_overrides(f"student.lr={text}"))])
    assert cfg.student.lr == 0.001


def test_nested_keys_reach_nested_sections() -> None:
    cfg = load_experiment([("--overrides", parse_overrides("student.loss.bce=2,student.seed=4"))])
    assert (cfg.student.loss.bce, cfg.student.seed) == (2.0, 4)


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("student.lrr=0.1", "student.lr"),
        ("studnet.lr=0.1", "student.lr"),
        ("lr=0.1", "student.lr"),
        ("link.depth_tol=0.1", "link.depth_tolerance"),
        ("fuse.view=all", "fuse.views"),
        ("teacher.nam=oracle", "teacher.name"),
    ],
)
def test_unknown_keys_are_refused_with_the_nearest(text: str, nearest: str) -> None:
    message = refused(text)
    assert text.split("=")[0].split(".")[0] in message
    assert "--overrides" in message
    assert nearest_key(text.split("=")[0], Experiment) == nearest


@pytest.mark.parametrize(
    "text",
    [
        "student.epochs=many",
        "student.epochs=1.5",
        "student.epochs=true",
        "student.epochs=0",
        "student.epochs=-3",
        "student.lr=0",
        "student.lr=.nan",
        "student.lr=.inf",
        "student.lr='0.1'",
        "student.lr=",
        "fuse.views=some",
        "fuse.superpoints=1",
        "student=3",
        "predict.threshold=1.01",
        "student.lr=[1, 2]",
    ],
)
def test_wrong_types_and_ranges_are_refused(text: str) -> None:
    message = refused(text)
    assert text.partition("=")[0] in message and "--overrides" in message


@pytest.mark.parametrize("text", ["student.lr", "=3", "student..lr=1", "student.lr=1,student.lr=2"])
def test_malformed_overrides_are_refused(text: str) -> None:
    assert "--overrides" in refused(text)


def test_an_error_names_the_file_that_brought_it(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("student:\n  lr: fast\n")
    with pytest.raises(ConfigError, match=r"mine\.yaml: student\.lr"):
        load_experiment([("set", {}), (str(path), read_yaml_mapping(path))])


@pytest.mark.parametrize(
    "content",
    ["student: [", "- a\n- b\n", "student: {lr: 1, lr: 2}\n", "a: !!python/name:os.system\n"],
)
def test_bad_yaml_files_are_refused_by_name(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"mine\.yaml"):
        read_yaml_mapping(path)


def test_a_missing_or_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="none.yaml"):
        read_yaml_mapping(tmp_path / "none.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ConfigError, match="binary.yaml"):
        read_yaml_mapping(tmp_path / "binary.yaml")


def test_every_key_has_a_description_and_is_reachable() -> None:
    def check(model: Any, prefix: str) -> None:
        for name, info in model.model_fields.items():
            assert info.description, f"{prefix}{name} has no description"

    check(Experiment, "")
    for name, field in Experiment.model_fields.items():
        if name != "steps":  # It is no section.
            check(field.annotation, f"{name}.")
    assert {"student.lr", "student.epochs", "student.seed", "fuse.views", "teacher.name"} <= set(
        valid_keys(Experiment)
    )


nested = st.recursive(
    st.integers() | st.text(max_size=3),
    lambda inner: st.dictionaries(st.sampled_from("abcd"), inner, max_size=3),
    max_leaves=8,
)
mappings = st.dictionaries(st.sampled_from("abcd"), nested, max_size=3)


@given(mappings, mappings, mappings)
def test_merging_is_associative_and_empty_layers_change_nothing(
    a: dict[str, object], b: dict[str, object], c: dict[str, object]
) -> None:
    assert merge(a, {}) == a == merge({}, a)
    assert merge(a, a) == a
    flat = merge(merge(a, b), c)
    assert set(flat) == set(a) | set(b) | set(c)
    for key, value in c.items():
        if not isinstance(value, dict):
            assert flat[key] == value


@given(st.text(max_size=40))
def test_any_overrides_text_is_taken_or_refused_cleanly(text: str) -> None:
    try:
        load_experiment([("--overrides", parse_overrides(text))])
    except ConfigError as error:
        assert "--overrides" in str(error)
