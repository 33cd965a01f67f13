"""Batch normalisation over several processes against torch's over all their rows at once."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn

from models.sparse.unet import SharedBatchNorm
from stages.student import distributed
from tests.support.worlds.rank_work import (
    ROWS_OF_RANKS,
    new_norm,
    normalise,
    outcome_of,
    rows_of,
    start_warm,
)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, Any]]]:
    """What each of three processes found, by case."""
    folder = tmp_path_factory.mktemp("norms")
    with patch.object(distributed, "start_processes", start_warm):
        distributed.run(normalise, (folder,), "cpu", 3, lambda done, total: None)
    names = {case: [folder / f"{case} {rank}.pt" for rank in range(3)] for case in ROWS_OF_RANKS}
    return {case: [torch.load(path) for path in paths] for case, paths in names.items()}


@pytest.mark.parametrize("case", ["unequal", "one lent"])
def test_counted_rows_are_normalised_as_one_batch(
    found: dict[str, list[dict[str, Any]]], case: str
) -> None:
    counted = [rank for rank in range(3) if ROWS_OF_RANKS[case][rank][1]]
    each = [rows_of(case, rank) for rank in counted]
    rows, coefficients = (torch.cat(parts) for parts in zip(*each, strict=True))
    wanted = outcome_of(new_norm(nn.BatchNorm1d), rows, coefficients)
    shares = found[case]
    for name in ("output", "rows"):
        whole = torch.cat([shares[rank][name] for rank in counted])
        torch.testing.assert_close(whole, wanted[name], rtol=1e-4, atol=1e-5)
    for name in ("weight", "bias"):
        # Rows that do not count have coefficients 0, and so no share.
        torch.testing.assert_close(
            sum(share[name] for share in shares), wanted[name], rtol=1e-4, atol=1e-5
        )
    for share in shares:
        torch.testing.assert_close(share["state"], wanted["state"], rtol=1e-5, atol=1e-6)


def test_lent_rows_are_normalised_like_the_others(found: dict[str, list[dict[str, Any]]]) -> None:
    each = [rows_of("one lent", rank)[0] for rank in range(2)]
    mean, deviation = torch.cat(each).mean(0), torch.cat(each).var(0, correction=0).sqrt()
    layer = new_norm(nn.BatchNorm1d)
    rows = rows_of("one lent", 2)[0]
    wanted = (rows - mean) / (deviation**2 + layer.eps).sqrt() * layer.weight + layer.bias
    share = found["one lent"][2]
    torch.testing.assert_close(share["output"], wanted.detach(), rtol=1e-4, atol=1e-5)
    assert not share["rows"].any()


def test_one_row_in_all_takes_and_keeps_the_running_statistics(
    found: dict[str, list[dict[str, Any]]],
) -> None:
    layer = new_norm(nn.BatchNorm1d).eval()
    for rank, share in enumerate(found["one row in all"]):
        wanted = outcome_of(layer, *rows_of("one row in all", rank))
        torch.testing.assert_close(share["output"], wanted["output"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(share["rows"], wanted["rows"], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(share["state"], layer.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("training", [True, False])
def test_alone_it_is_torchs_to_the_bit(training: bool) -> None:
    rows, coefficients = rows_of("unequal", 2)
    layers = [new_norm(kind).train(training) for kind in (SharedBatchNorm, nn.BatchNorm1d)]
    ours, theirs = (outcome_of(layer, rows, coefficients) for layer in layers)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
