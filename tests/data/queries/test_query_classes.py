"""Class lists: numbered lines, label tables, and those that are damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import DataError
from data.queries.classes import read_classes

LABELS = (
    "id\traw_category\tcategory\tcount\n"
    "1\twall\twall\t8277\n"
    "2\tchair\tchair\t4646\n"
    "39\toffice chair\toffice chair\t595\n"
    "2\tchairs\tchair\t3\n"
    '7\t12" table\ttable\t2\n'
)
MAPPING = (
    "index\traw_category\tcategory\tmpcat40\n"
    "1\twall \twall\twall\n"
    "2\tdoor\tdoor\tNone\n"
    "28\tLamp\tlamp\tlighting\n"
)


def files(folder: Path, classes: str, table: str = LABELS) -> tuple[Path, Path]:
    paths = folder / "classes.txt", folder / "labels.tsv"
    paths[0].write_text(classes)
    paths[1].write_text(table)
    return paths


def test_a_line_is_a_class_and_its_place_the_number(tmp_path: Path) -> None:
    table = read_classes(files(tmp_path, "wall\noffice chair\r\nTrash Can\n")[0])
    assert table.names == {0: "wall", 1: "office chair", 2: "Trash Can"}
    assert [table.index_of(n) for n in ("wall", "Office_Chair", "trash can", "sofa")] == [
        0,
        1,
        2,
        None,
    ]


@pytest.mark.parametrize("lines", ["wall\ntable\noffice chair\nchair\n", "1\n7\n39\n2\n"])
def test_a_label_table_gives_a_class_all_its_labels(tmp_path: Path, lines: str) -> None:
    table = read_classes(*files(tmp_path, lines))
    assert table.names == {0: "wall", 1: "table", 2: "office chair", 3: "chair"}
    labels = ("wall", '12" table', "office chair", "chair", "chairs", "sofa")
    assert [table.index_of(label) for label in labels] == [0, 1, 2, 3, 3, None]


def test_matterports_table_is_numbered_by_its_index(tmp_path: Path) -> None:
    table = read_classes(files(tmp_path, MAPPING)[0])
    assert table.names == {1: "wall", 2: "door", 28: "Lamp"}
    assert [table.index_of(label) for label in ("wall", "door", "lamp")] == [1, 2, 28]
    rows = MAPPING.replace("index\t", "number\t")
    assert read_classes(files(tmp_path, rows)[0]).names == {0: "wall", 1: "door", 2: "Lamp"}


def test_of_labels_that_differ_in_case_alone_each_has_its_own_class(tmp_path: Path) -> None:
    table = read_classes(files(tmp_path, MAPPING + "30\tlamp\tlamp\tlighting\n")[0])
    assert [table.index_of(label) for label in ("Lamp", "lamp", "LAMP")] == [28, 30, 30]


@pytest.mark.parametrize(
    ("classes", "labels", "hint"),
    [
        ("", LABELS, "empty file"),
        ("wall\n\nchair\n", LABELS, "line 2 blank"),
        ("wall\nchair\nWall\n", LABELS, "twice"),
        ("wall\nsofa\n", LABELS, "'sofa'"),
        ("1\n3\n", LABELS, "'3'"),
        ("chair\nchairs\n", LABELS, "lines 1 and 2 with the id 2"),
        ("wall\n", "id\tname\n1\twall\n", "raw_category"),
        ("wall\n", "id\traw_category\n", "only a header"),
        ("wall\n", "id\traw_category\nx\twall\n", "a whole number as id"),
        ("wall\n", "id\traw_category\n1\n", "1 cells in line 2"),
        ("wall\n", "id\traw_category\n1\twall\tmore\n", "3 cells in line 2"),
        ("wall\n", "id\tid\traw_category\n", "a column twice"),
        (MAPPING + "28\tlight\tlight\tlight\n", LABELS, "28 twice"),
        (MAPPING + "\tlight\tlight\tlight\n", LABELS, "a whole number as index"),
    ],
)
def test_damaged_lists_are_refused(tmp_path: Path, classes: str, labels: str, hint: str) -> None:
    with pytest.raises(DataError, match=hint):
        read_classes(*files(tmp_path, classes, labels))


def test_numbers_need_a_label_table(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="label_table"):
        read_classes(files(tmp_path, "1\n2\n")[0])
    with pytest.raises(DataError, match="no such file"):
        read_classes(tmp_path / "none.txt")


@settings(max_examples=80, suppress_health_check=list(HealthCheck), deadline=None)
@given(place=st.integers(0, 200), size=st.integers(0, 9), new=st.binary(max_size=4))
@pytest.mark.parametrize("which", ["classes.txt", "labels.tsv", "mapping.tsv"])
def test_any_damage_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, which: str, place: int, size: int, new: bytes
) -> None:
    folder = tmp_path_factory.getbasetemp()
    files(folder, "wall\noffice chair\nchair\n")
    (folder / "mapping.tsv").write_text(MAPPING)
    content = (folder / which).read_bytes()
    (folder / which).write_bytes(content[:place] + new + content[place + size :])
    try:
        if which == "mapping.tsv":
            table = read_classes(folder / which)
        else:
            table = read_classes(folder / "classes.txt", folder / "labels.tsv")
    except DataError as error:
        assert str(folder) in str(error)
    else:
        assert table.names and set(table.index_of_label.values()) <= set(table.names)
