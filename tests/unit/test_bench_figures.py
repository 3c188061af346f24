"""The arithmetic behind every figure we claim."""

from __future__ import annotations

from importlib import import_module

import pytest
from bench.claims import AIM, CLAIMS, SUBJECTS
from bench.harness import against_aim, alone, compare, read_lines, record, rounds
from bench.interval import summarise, t_quantile


def test_the_bars_are_the_ones_we_set_out_to_reach() -> None:
    """A bar changes only on purpose."""
    bars = {claim.bench: claim.bar for claim in CLAIMS.values() if claim.bar is not None}
    assert bars == {
        "ingest-verified-vs-floor": 0.5,
        "ingest-unverified-vs-floor": 0.75,
        "ingest-verified-vs-exporter": 20.0,
        "ingest-verified-vs-csv": 1.5,
        "ingest-unverified-vs-csv": 2.5,
        "ingest-peak-memory-10x": 0.909,
        "start-cold": 1.0,
        "start-warm": 1.0,
        "relay-null-vs-pypgoutput": 1.5,
        "relay-null-vs-pgsync": 3,
        "relay-rebuild": 0.5,
        "relay-clickhouse-vs-direct": 0.5,
        "relay-lag-null": 1.0,
        "relay-lag-redis": 1.0,
        "relay-lag-clickhouse": 1.0,
        "relay-lag-changes": 0.99,
        "relay-lag-inserts": 1.0,
        "relay-memory-sink-down": 0.909,
        "rls-point-read-vs-transaction": 0.8,
        "rls-point-read-vs-autocommit": 0.5,
        "rls-copy-in": 0.65,
        "session-check": 3.0,
        "session-check-round-trips": 1.0,
        "audit-append": 0.87,
        "audit-writers-of-one-tenant": 0.9,
        "wallet-page": 0.7,
        "wallet-balance": 0.7,
        "wallet-busy-page": 0.7,
        "wallet-busy-balance": 0.7,
        "events-append-1": 0.8,
        "events-append-8": 0.9,
        "events-append-32": 0.9,
        "events-append-batches": 0.9,
        "events-append-vs-eventsourcing": 4.0,
        "events-append-vs-functions": 1.6,
        "events-read-all": 1.0,
        "events-rebuild": 3,
    }


@pytest.mark.parametrize("subject", SUBJECTS)
def test_every_subject_is_a_bench(subject: str) -> None:
    """Each can be loaded: a bench that moved code broke is found here, not when it is wanted."""
    assert callable(import_module(f"bench.{subject}").figures)


def test_every_figure_begins_with_its_subject_and_has_a_meaning() -> None:
    """Names sort by subject, and no figure is printed that nobody explains."""
    for claim in CLAIMS.values():
        assert claim.bench.split("-")[0] in SUBJECTS
        assert claim.meaning.endswith(".")


def test_the_ratio_is_the_median_of_the_rounds_ratios() -> None:
    """Neighbours in time are compared: a machine that slows down between rounds changes nothing."""
    samples = {"ours": [100.0, 50.0, 10.0], "floor": [200.0, 100.0, 20.0]}
    figure = compare("ingest-verified-vs-floor", samples, "ours", "floor")
    assert figure.ratio is not None
    assert (figure.ratio.ratio, figure.ratio.spread, figure.ours) == (0.5, 0.0, 50.0)


def test_a_bar_is_met_when_the_upper_bound_reaches_it() -> None:
    """Noise alone does not fail a bar; a clear miss does."""
    close = {"ours": [0.48, 0.52, 0.46, 0.5], "floor": [1.0] * 4}
    clear = {"ours": [0.40, 0.41, 0.40, 0.41], "floor": [1.0] * 4}
    assert compare("ingest-verified-vs-floor", close, "ours", "floor").met is True
    assert compare("ingest-verified-vs-floor", clear, "ours", "floor").met is False


def test_where_less_is_better_the_ratio_is_turned_round() -> None:
    """Twice the aim in seconds is a ratio of one half, and missed."""
    figure = against_aim("start-cold", [24.0, 24.0, 24.0], aim=12.0)
    assert figure.ratio is not None
    assert (figure.ratio.ratio, figure.met, figure.peer_name) == (0.5, False, AIM)


def test_a_line_has_exactly_the_agreed_keys() -> None:
    """Other programs read these lines."""
    keys = ["bench", "ours", "peer_name", "peer", "unit", "ratio", "bar", "met", "rounds", "spread"]
    line = alone("relay-decoder", [1.0, 3.0, 2.0]).line()
    assert list(line) == keys
    assert (line["ours"], line["bar"], line["met"], line["ratio"]) == (2.0, None, None, None)


def test_rounds_are_interleaved_and_turn_their_order() -> None:
    """Both contenders run in each round, and neither is always the second."""
    calls: list[str] = []

    def contender(name: str):
        return lambda: (calls.append(name), 1.0)[1]

    samples = rounds({"a": contender("a"), "b": contender("b")}, 2, warm_up=False)
    assert calls == ["a", "b", "b", "a"]
    assert samples == {"a": [1.0, 1.0], "b": [1.0, 1.0]}


def test_bounds_follow_students_t() -> None:
    """Worked out by hand: logs -0.1, 0, 0.1 have s = 0.1 and reach 1.886 x 0.1 / sqrt 3."""
    summary = summarise([0.904837418, 1.0, 1.105170918])
    assert summary.upper == pytest.approx(1.115026, abs=1e-4)
    assert summary.lower == pytest.approx(1 / 1.115026, abs=1e-4)
    with pytest.raises(ValueError, match="two rounds"):
        t_quantile(0)


def test_a_new_line_replaces_the_older_one_of_its_name(tmp_path) -> None:
    """The gathered file holds the latest line of each figure, once."""
    path = tmp_path / "results" / "latest.jsonl"
    record([{"bench": "a", "ours": 1}, {"bench": "b", "ours": 1}], path)
    record([{"bench": "a", "ours": 2}], path)
    assert read_lines(path) == [{"bench": "b", "ours": 1}, {"bench": "a", "ours": 2}]
