"""`neolayer query`: look into any store."""

from __future__ import annotations

import sys
from collections import Counter
from datetime import timedelta
from typing import Annotated

import orjson
from cyclopts import Parameter

from neolayer.cli.output import encode_row, say, write_table
from neolayer.cli.root import app, invocation
from neolayer.cli.values import PositionsOf, Seconds, whole
from neolayer.errors import QueryError
from neolayer.insight.querying import LONGEST_TIME_LIMIT, PATIENCE, TIME_LIMIT, Answer, Target, ask
from neolayer.platform import endpoints
from neolayer.relay.state import server_notes

_PATIENCE_S = int(PATIENCE.total_seconds())
_DEFAULT_S = int(TIME_LIMIT.total_seconds())
TimeLimit = Annotated[
    int,
    whole(0, int(LONGEST_TIME_LIMIT.total_seconds())),
    Parameter(
        name="--timeout", help="Seconds until the statement is ended; 0: as long as it takes."
    ),
]


@app.command
async def query(
    target: Annotated[Target, Parameter(help="Which database.")],
    sql: Annotated[str, Parameter(help="The statement; it can only read.")],
    /,
    *,
    tenant: Annotated[str | None, Parameter(help="See what this tenant sees.")] = None,
    time_limit_s: TimeLimit = _DEFAULT_S,
    at_least: Annotated[
        PositionsOf | None,
        Parameter(help="Answer with everything up to this position, or wait for it."),
    ] = None,
    wait: Annotated[Seconds, Parameter(help="Seconds to wait for it.")] = _PATIENCE_S,
    json: Annotated[bool, Parameter(help="Print a JSON array of row objects.")] = False,
) -> None:
    """Run one read-only SQL statement on core, events, timeseries or analytics.

    64-bit integers are JSON numbers; numeric and wider integers are strings, so nothing is
    rounded. In analytics the tables bear the names they have in core: transactions, blocks, logs.
    The embedded ClickHouse gives no statement more than 300 s. A copy's answer says on stderr which
    position it reflects, and so does every answer with --at-least, which takes what writes and
    ingest return; where it does not come in time the code is 4. Read models take no --at-least.

    Example: neolayer query analytics "SELECT count(), sum(value) FROM transactions" --json
    """
    settings = invocation().settings
    async with ask(
        endpoints(settings),
        target,
        sql,
        tenant=tenant,
        time_limit=timedelta(seconds=time_limit_s),
        at_least=at_least,
        patience=timedelta(seconds=wait),
        notes=server_notes(settings.data_dir),
    ) as answer:
        if answer.position is not None:
            say(f"as of {answer.position}")
        if json:
            await _write_json(answer)
        else:
            rows = [row async for block in answer.blocks for row in block]
            write_table(answer.columns, rows)


async def _write_json(answer: Answer) -> None:
    """One array, written as the rows arrive. Raises QueryError where two columns share a name."""
    twice = [name for name, times in Counter(answer.columns).items() if times > 1]
    if twice:
        raise QueryError(
            f"two columns are named {twice[0]!r}", hint="give one an alias: ... AS name"
        )
    names = [orjson.dumps(name) + b": " for name in answer.columns]
    out = sys.stdout.buffer
    before = b"[\n"
    async for block in answer.blocks:
        for row in block:
            out.write(before + encode_row(names, row))
            before = b",\n"
    out.write(b"[]\n" if before == b"[\n" else b"\n]\n")
    out.flush()
