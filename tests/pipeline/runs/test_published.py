"""The latest results at fixed places, and the progress that leads to them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from data.artifacts.store import ArtifactKey, writing
from pipeline import latest_results
from pipeline.process import progress

FIGURES = {"miou": 0.25, "acc25": 0.5, "acc50": 0.125}


def finished_report(output: Path, config: dict[str, str]) -> ArtifactKey:
    """A report artifact whose page says which config it is of."""
    key = ArtifactKey.make(output, "report", 1, config, {})
    with writing(key) as folder:
        assert folder is not None
        (folder / "report.html").write_text(json.dumps(config))
        sources = ("student", "fusion_only", "together")
        metrics = {"num_queries": 8, **dict.fromkeys(sources, FIGURES)}
        metrics["teacher_2d"] = {"mask_iou": 0.625, "presence": None}
        (folder / "metrics.json").write_text(json.dumps(metrics))
    return key


def test_the_results_in_place_are_those_last_asked_for(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = (finished_report(tmp_path, {"name": name}) for name in "ab")
    assert not latest_results.is_current(tmp_path, first)
    with caplog.at_level(logging.INFO, "luigi-interface.results"):
        latest_results.publish(tmp_path, first)
    assert "8 queries; student mIoU 25.0%, Acc@0.25 50.0%, Acc@0.50 12.5%" in caplog.text
    assert "; teacher in 2D mask IoU 62.5%\n" in caplog.text
    assert latest_results.is_current(tmp_path, first)
    assert not latest_results.is_current(tmp_path, second)
    latest_results.publish(tmp_path, second)
    assert json.loads((tmp_path / "report.html").read_text()) == {"name": "b"}
    assert not latest_results.is_current(tmp_path, first)
    assert not list(tmp_path.glob(".*.tmp"))


def test_results_that_were_changed_or_deleted_are_put_back(tmp_path: Path) -> None:
    key = finished_report(tmp_path, {"name": "a"})
    latest_results.publish(tmp_path, key)
    (tmp_path / "report.html").write_text("")
    assert not latest_results.is_current(tmp_path, key)
    latest_results.publish(tmp_path, key)
    (tmp_path / "metrics.json").unlink()
    assert not latest_results.is_current(tmp_path, key)
    (tmp_path / "latest.json").write_text("[1]")
    assert not latest_results.is_current(tmp_path, key)


def test_other_figures_lie_beside_the_report_under_a_pointer_and_names_of_their_own(
    tmp_path: Path,
) -> None:
    report, other = (finished_report(tmp_path, {"name": name}) for name in "ab")
    latest_results.publish(tmp_path, report)
    latest_results.publish(tmp_path, other, "latest_other.json", {"metrics.json": "other.json"})
    assert latest_results.is_current(tmp_path, report)
    assert latest_results.is_current(tmp_path, other, "latest_other.json")
    assert not latest_results.is_current(tmp_path, report, "latest_other.json")
    assert json.loads((tmp_path / "report.html").read_text()) == {"name": "a"}
    assert json.loads((tmp_path / "other.json").read_text())["num_queries"] == 8
    (tmp_path / "other.json").unlink()
    assert not latest_results.is_current(tmp_path, other, "latest_other.json")


def test_an_unfinished_report_is_not_published(tmp_path: Path) -> None:
    key = ArtifactKey.make(tmp_path, "report", 1, {}, {})
    with pytest.raises(RuntimeError, match="not finished"):
        latest_results.publish(tmp_path, key)


def test_a_log_gets_a_line_every_half_minute_with_the_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 100.0
    monkeypatch.setattr("pipeline.process.progress.time.monotonic", lambda: now)
    show = progress.reporter("Work")
    with caplog.at_level(logging.INFO, "luigi-interface.progress"):
        for done in range(1, 11):
            now += 20.0
            show(done, 10)
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "Work: 2/10, about 160 s left",
        "Work: 4/10, about 120 s left",
        "Work: 6/10, about 80 s left",
        "Work: 8/10, about 40 s left",
    ]
