"""docs/performance.md says what the recorded lines say."""

from __future__ import annotations

from bench.document import document, number
from bench.harness import alone, compare

_MACHINE = {"cpu": "some processor", "cores": "2"}


def _line(ours: float):
    samples = {"ours": [ours] * 3, "floor": [40_000.0] * 3}
    return compare("ingest-verified-vs-floor", samples, "ours", "floor").line()


def test_a_figure_becomes_one_row() -> None:
    """Both sides, the ratio, the bar and the verdict stand in the figure's row."""
    text = document([_line(30_000.0)], _MACHINE)
    assert "below their bar" not in text
    row = "| ingest-verified-vs-floor | 30,000 tx/s | 40,000 (floor) | 0.75 | 0.5 | yes | 3 | 0 |"
    assert row in text.splitlines()
    assert "some processor" in text


def test_a_ratio_below_its_bar_is_told_with_its_reason() -> None:
    """It is never only a cell in a table; also where the bounds reach the bar."""
    for line in (_line(10_000.0), {**_line(10_000.0), "met": True}):
        text = document([line], _MACHINE)
        assert ("| **no** |" in text) is (not line["met"])
        assert "## Ratios below their bar, and why\n\n- **ingest-verified-vs-floor**: " in text


def test_a_figure_without_a_peer_leaves_the_cells_empty() -> None:
    """No invented peer, bar or verdict."""
    text = document([alone("relay-decoder", [250_000.0]).line()], _MACHINE)
    assert "| relay-decoder | 250,000 rows/s |  |  |  |  | 1 |  |" in text.splitlines()


def test_numbers_are_written_for_people() -> None:
    assert (number(1234.5), number(0.7512), number(None)) == ("1,234", "0.751", "")
