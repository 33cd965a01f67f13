"""Work in threads: order, bounds, errors, and how many threads there are."""

from __future__ import annotations

import threading
import time

import pytest

from data import parallel
from data.parallel import THREAD_VARIABLES


def _square(number: int) -> int:
    time.sleep(0.02 if number % 2 else 0)  # Later items would overtake.
    return number * number


@pytest.mark.parametrize("count", [1, 2, 5])
def test_results_come_in_the_order_of_the_items(count: int) -> None:
    expected = [0, 1, 4, 9, 16, 25, 36]
    assert list(parallel.mapped(_square, range(7), count)) == expected
    assert list(parallel.mapped(_square, [], count)) == []


@pytest.mark.parametrize("count", [1, 3])
def test_no_more_than_count_results_exist_before_they_are_asked_for(count: int) -> None:
    begun: list[int] = []
    results = parallel.mapped(begun.append, range(100), count)
    next(results)
    assert len(begun) <= count


def test_as_many_calls_run_at_once() -> None:
    together = threading.Barrier(3, timeout=20)  # Broken unless three wait at the same time.
    list(parallel.mapped(lambda _: together.wait(), range(6), 3))


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_comes_at_its_turn(count: int) -> None:
    def inverse(number: int) -> float:
        return 1 / number

    results = parallel.mapped(inverse, [2, 1, 0, 4], count)
    assert [next(results), next(results)] == [0.5, 1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_environment_grants_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in THREAD_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 3, 5}, raising=False)
    assert parallel.num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "nonsense")
    assert parallel.num_threads() == 3
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert parallel.num_threads() == 2
