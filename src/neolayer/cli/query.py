"""`neolayer query`: look into any store."""

from __future__ import annotations

import sys
from collections import Counter
from typing import Annotated

import orjson
from cyclopts import Parameter

from neolayer.cli.output import encode_row, write_table
from neolayer.cli.root import app, invocation
from neolayer.errors import QueryError
from neolayer.insight.querying import Answer, Target, ask
from neolayer.platform import endpoints


@app.command
async def query(
    target: Target,
    sql: str,
    /,
    *,
    tenant: Annotated[str | None, Parameter(help="See what this tenant sees.")] = None,
    json: Annotated[bool, Parameter(help="Print a JSON array of row objects.")] = False,
) -> None:
    """Run one read-only SQL statement on core, events, timeseries or analytics.

    64-bit integers are JSON numbers; numeric and wider integers are strings, so nothing is
    rounded. In analytics the tables bear the names they have in core: transactions, blocks, logs.

    Example: neolayer query analytics "SELECT count(), sum(value) FROM transactions" --json
    """
    async with ask(endpoints(invocation().settings), target, sql, tenant=tenant) as answer:
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
