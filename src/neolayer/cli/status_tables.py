"""What `neolayer status` shows a person: tables that fit a terminal of 80 columns.

What may be of any length (addresses, reasons, ranges of blocks) stands below its table.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from neolayer.cli.output import counted, say, write_line, write_table
from neolayer.insight.joining import VERBS

Facts = dict[str, Any]
_RANGES = 8


def show(report: Facts) -> None:
    """The report of `status`, on stdout."""
    if not report["running"]:
        say(f"No layer is running on {report['data_dir']}.")
    if report["engines"]:
        _show_engines(report["engines"])
    if report["time_series"]:
        write_line(f" time series: {report['time_series']}")
    if report["services"]:
        columns = ("process", "state", "pid", "restarts", "last exit")
        write_table(columns, [tuple(service.values()) for service in report["services"]])
    if report["relay"]:
        _show_relay(report["relay"])
    if report["engines"] and report["stores"]:
        _show_stores(report["stores"])
    if report["audit"]:
        _show_audit(report["audit"])
    if report.get("webhooks") and report["webhooks"]["endpoints"]:
        _show_webhooks(report["webhooks"])
    for note in (*report.get("alarms", ()), *report.get("notes", ())[:_RANGES]):
        write_line(f" {note}")
    for task in report["tasks"]:
        if task["error"]:
            write_line(f" task {task['name']}: {task['error']}")
    if networks := [network for network in report["networks"] if network["stored"]]:
        _show_networks(networks)


def _show_engines(engines: list[Facts]) -> None:
    columns = ("engine", "level", "version", "state", "schema", "lag")
    write_table(columns, [_engine(engine) for engine in engines])
    width = max(len(engine["name"]) for engine in engines)
    for engine in engines:
        print(f" {engine['name']:<{width}}  {engine['address']}")  # whole, to be copied
    for engine in engines:
        if not engine["healthy"]:
            write_line(f" {engine['name']}: {engine['detail']}")


def _engine(engine: Facts) -> tuple[object, ...]:
    return (
        engine["name"],
        engine["level"],
        engine["version"],
        "healthy" if engine["healthy"] else "unhealthy",
        engine["schema_version"],
        _bytes(engine["lag"]["bytes"] if engine["lag"] else None),
    )


def _show_relay(relay: Facts) -> None:
    title = " relay: reading" if relay["running"] else " relay: not reading"
    if relay["position"]:
        title += f", at {relay['position']}"
    if relay["lag_bytes"] is not None:
        title += f", {_bytes(relay['lag_bytes'])} behind"
    columns = ("sink", "position", "lag", "waiting rows")
    write_table(columns, map(_sink, relay["sinks"]), title=title)
    for each in ({"name": "relay", **relay}, *relay["sinks"]):
        if each["error"]:
            write_line(f" {each['name']}: {each['error']}")
    if relay["alarm"]:
        write_line(f" relay: {relay['alarm']}")


def _sink(sink: Facts) -> tuple[object, ...]:
    lag = _bytes(sink["lag_bytes"])
    if sink["lag_seconds"] is not None:
        lag += f", {sink['lag_seconds']:.1f} s"
    return sink["name"], sink["position"], lag.removeprefix(", "), sink["waiting_rows"]


def _show_stores(stores: list[Facts]) -> None:
    """One line a store: which of its copies are joined, and what the others are not covered by."""
    for name in dict.fromkeys(one["store"] for one in stores):
        copies = [one for one in stores if one["store"] == name]
        joined = sum(one["joined"] for one in copies)
        lacking = [verb for verb in VERBS if not all(one[verb] for one in copies)]
        line = f" {name}: {joined} of {len(copies)} classes joined"
        write_line(line + (f", without {', '.join(lacking)}" if lacking else ""))


def _show_webhooks(webhooks: Facts) -> None:
    states = ", ".join(
        f"{webhooks[name]} {name}"
        for name in ("failing", "disabled", "pending", "parked")
        if webhooks[name]
    )
    write_line(f" webhooks: {webhooks['endpoints']}{', ' if states else ''}{states}")


def _show_audit(audit: Facts) -> None:
    waiting = f"{counted(audit['unsealed'], 'entry', 'entries')} unsealed"
    if audit["unsealed"]:
        waiting += f" for {audit['lag_seconds']:.1f} s"
    anchor = f"anchor {audit['last_anchor']}" if audit["last_anchor"] else "no anchor yet"
    write_line(f" audit: {counted(audit['chains'], 'chain')}, {waiting}, {anchor}")


def _show_networks(networks: list[Facts]) -> None:
    columns = ("network", "chain id", "head", "final", "blocks", "missing")
    write_table(columns, map(_network, networks))
    for network in networks:
        if network["missing"]:
            write_line(f" {network['name']}: missing {_ranges(network['missing'])}")


def _network(network: Facts) -> tuple[object, ...]:
    return (
        network["name"],
        network["chain_id"],
        network["head"],
        network["finalized"],
        _blocks(network["stored"]),
        _blocks(network["missing"]),
    )


def _blocks(ranges: Iterable[list[int]]) -> int:
    return sum(high - low + 1 for low, high in ranges)


def _ranges(ranges: Iterable[list[int]]) -> str:
    shown = [f"{low}-{high}" if low != high else str(low) for low, high in ranges]
    more = len(shown) - _RANGES
    return ", ".join(shown[:_RANGES]) + (f" and {more} more ranges" if more > 0 else "")


def _bytes(count: int | None) -> str:
    """A size in the largest unit of which there is one, or nothing where it is not known."""
    if count is None:
        return ""
    size, units = float(count), ["B", "kB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1000, units[1:]
    return f"{count} B" if units[0] == "B" else f"{size:.1f} {units[0]}"
