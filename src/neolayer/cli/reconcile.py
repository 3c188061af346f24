"""`neolayer reconcile`: are the copies equal to PostgreSQL, which keys are not, put them right."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import Annotated, Any

from cyclopts import Parameter

from neolayer.catalogue import DataClass
from neolayer.cli.output import write_json, write_line
from neolayer.cli.progress import Counting
from neolayer.cli.root import answering, app, invocation
from neolayer.cli.values import Seconds
from neolayer.errors import InvalidInput, NeolayerError, SettingsError
from neolayer.freshness import Store
from neolayer.platform import copied_classes, endpoints, is_only_told
from neolayer.relay.comparing.report import TableReport
from neolayer.relay.comparing.stores import reconcile as compare

_NAMED = 20
DIFFERENT = 1


@app.command
async def reconcile(
    *,
    repair: Annotated[bool, Parameter(help="Put right what differs.")] = False,
    deep: Annotated[bool, Parameter(help="Look at every value, and say which columns.")] = False,
    table: Annotated[str | None, Parameter(help="Only this table: blocks, auth.users.")] = None,
    sink: Annotated[Store | None, Parameter(help="Only this store.")] = None,
    wait: Annotated[
        Seconds, Parameter(help="Seconds a store may take to reach the position.")
    ] = 60,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> int:
    """Compare every copy with PostgreSQL, as of a position, and name the rows that differ.

    The exit code is 0 where all is equal (with --repair: equal now), 1 where something differs, 4
    where a store is too far behind to be compared, 3 where anything else kept it from comparing.

    Example: neolayer reconcile --table transactions --repair
    """
    reports: list[TableReport] = []
    with answering(), Counting("rows compared") as counting:
        at = endpoints(invocation().settings)
        before = 0

        def show(report: TableReport) -> None:
            counting.show(before + report.rows)

        compared = compare(
            at,
            _comparable(table),
            stores=None if sink is None else [sink],
            repair=repair,
            deep=deep,
            patience=timedelta(seconds=wait),
            on_progress=show,
        )
        try:
            async with aclosing(compared):  # also where whoever reads us goes
                async for report in compared:
                    before += report.rows
                    reports.append(report)
                    if not json:
                        _show(report)
        except NeolayerError:
            if json and reports:  # what was compared before
                _write(reports)
            raise
    if not reports:
        what = "copies" if table is None else f"copies of {table}"
        who = f"no store here holds {what}" if sink is None else f"{sink} here holds no {what}"
        raise SettingsError(
            f"{who}: nothing was compared",
            hint="leave out --table or --sink, or configure the store",
        )
    if json:
        with answering():
            _write(reports)
    return 0 if all(report.agrees for report in reports) else DIFFERENT


def _comparable(table: str | None) -> list[DataClass]:
    """The classes that have copies which can be read. Raises InvalidInput."""
    chosen = copied_classes(table)
    read = [one for one in chosen if not is_only_told(one)]
    if not read:
        raise InvalidInput(
            f"{table} goes out as messages only, which nobody can compare",
            hint="neolayer relay status says how far each stream is",
        )
    return read


def _write(reports: Sequence[TableReport]) -> None:
    write_json([_facts(report) for report in reports])


def _show(report: TableReport) -> None:
    """One line for the table, and the first keys that differ."""
    ending = "" if report.total == 1 else "s"
    line = f"{report.table} in {report.store}: {report.total:,} difference{ending}"
    if report.repaired or report.left:
        line += f", {report.repaired:,} repaired"
    line += f" as of {report.position} ({report.rows:,} rows)"
    if report.unsettled:
        line += f"; {report.unsettled:,} changed whenever they were looked at"
    write_line(line)
    for one in report.differences[:_NAMED]:
        columns = f" ({', '.join(one.columns)})" if one.columns else ""
        write_line(f"  {one.kind}: {' '.join(one.key)}{columns}")
    if report.total > _NAMED:
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in report.counts.items())
        write_line(
            f"  and more: {kinds} in all; --json names the first {len(report.differences):,}"
        )


def _facts(report: TableReport) -> dict[str, Any]:
    return {
        "table": report.table,
        "store": report.store,
        "position": str(report.position),
        "rows": report.rows,
        "differences": report.total,
        "counts": {str(kind): count for kind, count in report.counts.items()},
        "keys": [
            {"kind": str(one.kind), "key": list(one.key)}
            | ({"columns": list(one.columns)} if one.columns else {})
            for one in report.differences
        ],
        "repaired": report.repaired,
        "left": report.left,
        "unsettled": report.unsettled,
        "transfers": report.transfers,
        "agrees": report.agrees,
    }
