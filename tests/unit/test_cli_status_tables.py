"""What `status` shows at 80 columns: nothing is folded within a word, nothing is left out."""

from __future__ import annotations

from typing import Any

import pytest

from neolayer.cli.status_tables import show

Facts = dict[str, Any]


def engine(name: str, version: str, address: str, **facts: Any) -> Facts:
    usual = {"level": "embedded", "healthy": True, "schema_version": 20, "detail": None}
    lag = {"bytes": 1_649_816, "seconds": 12.0}
    return {"name": name, "version": version, "address": address, "lag": lag, **usual, **facts}


def sink(name: str, **facts: Any) -> Facts:
    usual = {"lag_bytes": 999, "lag_seconds": 0.0, "waiting_rows": 4_000, "error": None}
    return {"name": name, "position": "neolayer:1:1F/4258DB08", **usual, **facts}


REASON = "the schema of clickhouse is not that of this version; run: neolayer migrate up"
REPORT: Facts = {
    "running": True,
    "data_dir": "/data",
    "engines": [
        engine("clickhouse", "26.9.2.1", "http://127.0.0.1:42911/neolayer", healthy=False)
        | {"detail": REASON},
        engine("objects", "local folder (obstore 0.12.1)", "file:///" + "long/" * 30, lag=None),
    ],
    "time_series": "native PostgreSQL tables; TimescaleDB 2.23.0-dev is available but not used",
    "services": [
        {"name": "relay", "state": "restarting", "pid": None, "restarts": 12, "last_exit": "x" * 30}
    ],
    "relay": {
        "running": False,
        "position": None,
        "lag_bytes": None,
        "error": "the stream stopped",
        "alarm": "slot neolayer_relay holds back 6000 MB",
        "sinks": [sink("clickhouse", error="no table"), sink("redis", lag_bytes=None)],
    },
    "stores": [
        {"store": "clickhouse", "class": name, "position": True, "reconcile": True, "where": True}
        | {"erase": False, "restore": False, "joined": False}
        for name in ("blocks", "transactions")
    ],
    "audit": {"chains": 10_000, "unsealed": 3_000_000, "lag_seconds": 86_400.5, "last_anchor": 99},
    "alarms": ["clickhouse refused 3 changes: neolayer relay letters clickhouse"],
    "notes": [f"subscription feed of tenant {n}: 1 parked, 2 waiting behind" for n in range(20)],
    "tasks": [{"name": "audit: seal", "error": "PostgreSQL does not answer " * 5}],
    "networks": [
        {
            "name": "neo-n3-testnet",
            "chain_id": 894710606,
            "head": 22431087,
            "finalized": 22431086,
            "stored": [[n * 100, n * 100 + 9] for n in range(20)],
            "missing": [[n * 100 + 10, n * 100 + 99] for n in range(19)],
        }
    ],
}


def test_it_fits_eighty_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every row is one line, whatever is long stands whole on a line of its own or wraps there."""
    monkeypatch.setenv("COLUMNS", "80")
    show(REPORT)
    lines = capsys.readouterr().out.splitlines()
    rows = [" ".join(line.split()) for line in lines]
    assert all(len(line) <= 80 for line in lines if "file:///" not in line)
    for row in (
        "clickhouse embedded 26.9.2.1 unhealthy 20 1.6 MB",
        "objects embedded local folder (obstore 0.12.1) healthy 20",
        "clickhouse http://127.0.0.1:42911/neolayer",
        "objects file:///" + "long/" * 30,
        "relay restarting 12 " + "x" * 30,
        "relay: not reading",
        "clickhouse neolayer:1:1F/4258DB08 999 B, 0.0 s 4000",
        "redis neolayer:1:1F/4258DB08 0.0 s 4000",
        "relay: the stream stopped",
        "relay: slot neolayer_relay holds back 6000 MB",
        "clickhouse: no table",
        "clickhouse: 0 of 2 classes joined, without erase, restore",
        "neo-n3-testnet 894710606 22431087 22431086 200 1710",
    ):
        assert row in rows, row
    everything = " ".join(rows)
    assert REASON in everything
    assert "clickhouse refused 3 changes: neolayer relay letters clickhouse" in everything
    assert everything.count("1 parked, 2 waiting behind") == 8
    assert "neo-n3-testnet: missing 10-99, 110-199," in everything
    assert "and 11 more ranges" in everything
