"""The closing line of the fault runs: fewer than promised is a failure, of each kind by itself."""

from __future__ import annotations

import copy

import pytest
from tools.fault_figures import OF_EACH, missing

ENOUGH = {kind: {**figures, "lost": 0, "doubled": 0} for kind, figures in OF_EACH.items()}


def test_what_was_promised_is_enough() -> None:
    """And less of anything is not."""
    assert missing(ENOUGH) == []
    for kind, figures in OF_EACH.items():
        for name, least in figures.items():
            noted = copy.deepcopy(ENOUGH)
            noted[kind][name] = least - 1
            assert missing(noted) == [f"{kind}: {least - 1} {name} of {least}"]


@pytest.mark.parametrize("kind", OF_EACH)
def test_a_kind_that_did_not_run_is_missed(kind: str) -> None:
    """However many runs the others had."""
    noted = {name: figures for name, figures in ENOUGH.items() if name != kind}
    assert any(line.startswith(f"{kind}: 0 ") for line in missing(noted))


@pytest.mark.parametrize("what", ["lost", "doubled"])
def test_one_that_is_lost_or_doubled_is_told(what: str) -> None:
    noted = copy.deepcopy(ENOUGH)
    noted["relay_points"][what] = 1
    assert missing(noted) == [f"1 {what}"]
