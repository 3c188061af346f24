"""`neolayer where`: every copy of a row, in every engine."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from neolayer.cli.output import write_json, write_line, write_table
from neolayer.cli.root import app, invocation
from neolayer.errors import NotFound
from neolayer.platform import data_classes, endpoints
from neolayer.relay.where import Copy, Located, State, class_of
from neolayer.relay.where import where as look
from neolayer.tenancy.directory import open_directory


@app.command
async def where(
    kind: Annotated[str, Parameter(help="Class of data, such as transaction.")],
    value: Annotated[str, Parameter(help="What a person knows the row by.")],
    /,
    *,
    tenant: Annotated[str | None, Parameter(help="See what this tenant sees.")] = None,
    network: Annotated[str | None, Parameter(help="Only on this network.")] = None,
    values: Annotated[bool, Parameter(help="Show the row too; secrets never are.")] = False,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> None:
    """Show every copy of a row, in every engine, with its position and how far each store is.

    KIND is a class of data: transaction, block, contract, wallet, user, tenant, event ... VALUE is
    what a person knows it by: a hash, a number, an address, an id, a name; of events the stream.

    Example: neolayer where block 19000000 --network ethereum
    """
    at = endpoints(invocation().settings)
    one = class_of(kind, data_classes())
    tenant_id = None
    if tenant is not None:
        async with open_directory(at) as directory:
            tenant_id = (await directory.find(tenant)).id
    found = await look(at, one, value, tenant=tenant_id, network=network)
    if not found:
        raise NotFound(f"no row of {one.name} is known by {value!r}", hint=_known(one.known_by))
    if json:
        write_json([_facts(row, values=values) for row in found])
        return
    for row in found:
        _show(row, values=values)


def _known(columns: tuple[str, ...]) -> str:
    return f"it is looked for by: {', '.join(columns)}"


def _show(row: Located, *, values: bool) -> None:
    key = " ".join(f"{name}={text}" for name, text in row.key.items())
    write_line(f"{row.name}: {key}")
    columns = ("engine", "state", "row's position", "lag", "place")
    write_table(columns, [_line(copy) for copy in row.copies])
    for copy in row.copies:
        if copy.detail:
            write_line(f" {copy.engine}: {copy.detail}")
    if values:
        write_table(("column", "value"), list(row.values.items()))


def _line(copy: Copy) -> tuple[object, ...]:
    lag = None if copy.lag_bytes is None else f"{copy.lag_bytes} B"
    position = copy.position if copy.state is not State.UNKNOWN else None
    return copy.engine, copy.state, position, lag, copy.place


def _facts(row: Located, *, values: bool) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "kind": row.name,
        "table": row.table,
        "key": row.key,
        "copies": [
            {
                "engine": copy.engine,
                "place": copy.place,
                "state": str(copy.state),
                "position": None if copy.position is None else str(copy.position),
                "reached": None if copy.reached is None else str(copy.reached),
                "lag_bytes": copy.lag_bytes,
                "detail": copy.detail,
            }
            for copy in row.copies
        ],
    }
    return {**facts, "values": row.values} if values else facts
