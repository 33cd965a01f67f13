"""Benchmark classes: every rule of the table by hand, and damaged tables."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.readers.scannetpp_classes import (
    IGNORE,
    class_ids,
    mapped_label,
    read_benchmark,
    read_class_map,
    read_classes,
)
from data.rooms.folder import write_index

TABLE = """class,count,semantic_map_to,instance_map_to
table,90,,
office table,30,table,table
REMOVE,11,None,None
floor,70,,None
"lamp, standing",4,floor lamp,
none,1,,
nan,1,NaN,
null,2,none,
"""
CLASSES = "floor\ntable\nfloor lamp\noffice chair\nnone\n"


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "map_benchmark.csv"
    path.write_text(TABLE)
    return path


@pytest.mark.parametrize(
    ("label", "semantic", "instance"),
    [
        ("table", "table", "table"),  # blank: unchanged
        ("office table", "table", "table"),  # renamed
        ("REMOVE", None, None),  # the word None: dropped
        ("floor", "floor", None),
        ("lamp, standing", "floor lamp", "lamp, standing"),
        ("none", "none", "none"),  # only "None" drops
        ("nan", "NaN", "nan"),
        ("null", "none", "null"),  # renamed once, not on and on
        ("never listed", "never listed", "never listed"),
        ("Table", "Table", "Table"),
    ],
)
def test_every_rule_of_the_table(
    table: Path, label: str, semantic: str | None, instance: str | None
) -> None:
    assert mapped_label(label, read_class_map(table, "semantic")) == semantic
    assert mapped_label(label, read_class_map(table, "instance")) == instance


def test_ids_are_lines_of_the_list_and_the_rest_is_ignored(table: Path, tmp_path: Path) -> None:
    path = tmp_path / "top100.txt"
    path.write_text(CLASSES)
    classes = read_classes(path)
    assert classes == ("floor", "table", "floor lamp", "office chair", "none")
    labels = ["office table", "REMOVE", "floor", "lamp, standing", "office chair", "wall", "office"]
    semantic = class_ids(labels, read_class_map(table, "semantic"), classes)
    assert semantic.tolist() == [1, IGNORE, 0, 2, 3, IGNORE, IGNORE]
    assert semantic.dtype == np.int32 and IGNORE == -100
    instance = class_ids(labels, read_class_map(table, "instance"), classes)
    assert instance.tolist() == [1, IGNORE, IGNORE, IGNORE, 3, IGNORE, IGNORE]
    assert class_ids([], {}, classes).shape == (0,)


def test_byte_order_marks_line_ends_and_columns_in_another_order(tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_bytes(
        b"\xef\xbb\xbfsemantic_map_to,voxel_count,class\r\nNone,1,wall\r\n,2,door frame\r\n\r\n"
    )
    assert read_class_map(path, "semantic") == {"wall": None, "door frame": "door frame"}
    with pytest.raises(DataError, match="instance_map_to"):
        read_class_map(path, "instance")


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ("", "empty"),
        ("class,semantic_map_to\n", "none"),
        ("class,count\nwall,3\n", "semantic_map_to"),
        ("class,class,semantic_map_to\na,a,b\n", "each once"),
        ("class,semantic_map_to\nwall\n", "line 2"),
        ("class,semantic_map_to\nwall,a,b\n", "line 2"),
        ("class,semantic_map_to\nwall,\nwall,x\n", "'wall' again"),
        ("class,semantic_map_to\n ,x\n", "an empty one"),
        ('class,semantic_map_to\n"wall,x\n', "line 2"),
    ],
)
def test_wrong_tables_are_named(tmp_path: Path, content: str, hint: str) -> None:
    path = tmp_path / "map_benchmark.csv"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_class_map(path, "semantic")
    assert str(path) in str(caught.value) and hint in str(caught.value)


@pytest.mark.parametrize(
    ("content", "hint"),
    [("", "empty"), ("a\n\nb\n", "an empty line"), ("a b\nc\na b\n", "'a b'")],
)
def test_wrong_lists_are_named(tmp_path: Path, content: str, hint: str) -> None:
    path = tmp_path / "top100.txt"
    path.write_text(content)
    with pytest.raises(DataError) as caught:
        read_classes(path)
    assert str(path) in str(caught.value) and hint in str(caught.value)


def test_a_benchmark_is_found_from_either_root(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    write_index(tmp_path, {})
    for root in (tmp_path, tmp_path / "data"):
        semantic, classes = read_benchmark(root, "semantic")
        instance, things = read_benchmark(root, "instance")
        assert semantic["wall"] == "wall" and instance["wall"] is None
        assert "wall" in classes and "wall" not in things and "trash bin" in things
    (tmp_path / "metadata" / "semantic_benchmark" / "top100.txt").unlink()
    with pytest.raises(DataError, match="top100.txt"):
        read_benchmark(tmp_path, "semantic")


@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1),
        st.one_of(st.none(), st.just(""), st.text("abc ,\"'", min_size=1)),
        min_size=1,
    )
)
def test_any_table_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: dict[str, str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "map.csv"
    stream = io.StringIO()
    writer = csv.writer(stream)
    writer.writerow(["class", "semantic_map_to"])
    writer.writerows([label, "None" if to is None else to] for label, to in rows.items())
    path.write_text(stream.getvalue(), newline="")
    expected = {label: None if to is None else (to.strip() or label) for label, to in rows.items()}
    assert read_class_map(path, "semantic") == expected


@settings(max_examples=400)
@given(st.integers(0, 2**31), st.integers(1, 20), st.floats(0, 1))
def test_damaged_tables_and_lists_give_one_clear_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, share: float
) -> None:
    folder = tmp_path_factory.getbasetemp()
    rng = np.random.default_rng(seed)
    for name, content in (("map_benchmark.csv", TABLE), ("top100.txt", CLASSES)):
        bad = np.frombuffer(content.encode(), np.uint8).copy()
        bad[rng.integers(0, len(bad), count)] = rng.integers(0, 256, count)
        path = folder / name
        path.write_bytes(bad.tobytes()[: int(share * len(bad))])
        try:
            if name == "top100.txt":
                assert all(read_classes(path))
            else:
                assert all(read_class_map(path, "semantic"))
        except DataError as error:
            assert str(path) in str(error)
