"""The limits on files, folders and importers hold, and the check of them sees what breaks them."""

from __future__ import annotations

from pathlib import Path

from benchmarks.layout import layout, problems, single_importers


def test_the_product_keeps_its_limits() -> None:
    found = layout()
    assert len(found.modules) > 100, "the product's files were not found"
    assert not problems(found)


def test_a_helper_of_one_user_in_another_folder_is_found(tmp_path: Path) -> None:
    files = {
        "data/near/user.py": "from data.near import friend\nfrom data.far.helper import f\n",
        "data/near/friend.py": "x = 1\n",
        "data/far/helper.py": "def f(): ...\n",
        "stages/stage.py": "import data.near.user\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = layout(tmp_path)
    assert single_importers(found) == {"data.far.helper": "data.near.user"}
    assert problems(found) == [
        "data.far.helper: only data.near.user imports it, from another folder"
    ]


def test_long_files_and_full_folders_are_found(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "long.py").write_text("x = 1\n" * 501)
    for k in range(20):
        (tmp_path / "models" / f"short_{k}.py").write_text("x = 1\n")
    told = problems(layout(tmp_path))
    assert told == ["models/: 21 Python files, at most 20", "models.long: 501 lines, at most 500"]
