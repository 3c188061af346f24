"""`neolayer demo`: the main job, end to end, on blocks of yours or on a chain made on the spot."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from neolayer.chain.ingest import IngestReport
from neolayer.chain.registry import find_network
from neolayer.chain.sources.files import find_files
from neolayer.cli.output import say, words, write_json, write_table
from neolayer.cli.refusals import told
from neolayer.cli.retries import say_retries
from neolayer.cli.root import app, invocation
from neolayer.cli.temporary import layer_while
from neolayer.cli.values import Positive
from neolayer.engines.embedded.data_directory import DataDirectory
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import SettingsError
from neolayer.insight.demonstration import Outcome, show_files, show_node, show_synthetic
from neolayer.platform import endpoints, is_embedded


@app.command
async def demo(
    *,
    blocks: Annotated[Path | None, Parameter(help="A block file or a folder of them.")] = None,
    rpc: Annotated[str | None, Parameter(help="A JSON-RPC endpoint: its last blocks.")] = None,
    network: Annotated[
        str | None,
        Parameter(help="The network the blocks are of; unset: ethereum."),
    ] = None,
    chain_id: Annotated[Positive | None, Parameter(help="The chain id of a new network.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> int:
    """Bring the layer up if it is not, let a chain flow through it, show what landed, stop it.

    Without blocks a synthetic chain is made: signed transactions, contracts, a reorganisation.

    Example: neolayer demo --blocks ./blocks --network ethereum
    """
    say_retries()
    if blocks is not None and rpc is not None:
        raise SettingsError("give --blocks or --rpc, not both")
    if blocks is None and rpc is None and (network, chain_id) != (None, None):
        raise SettingsError(
            "--network and --chain-id are of blocks that are given",
            hint="add --blocks FOLDER or --rpc URL; without them the demo makes a chain of its own",
        )
    if blocks is not None:
        find_files([blocks])  # before anything is started
    async with _layer() as at:
        outcome = await _show(at, blocks, rpc, network or "ethereum", chain_id)
        _answer(outcome, json)
    for line in told(outcome.report.refused):
        say(line)
    return 0 if outcome.agrees and not outcome.report.refused else 1


@asynccontextmanager
async def _layer() -> AsyncGenerator[Endpoints]:
    """The running layer, or one that runs as long as the demonstration."""
    called = invocation()
    directory = DataDirectory(called.settings.data_dir)
    if directory.holder() is not None or not is_embedded(called.settings):
        yield endpoints(called.settings)
    else:
        async with layer_while(called):
            yield endpoints(called.settings)


async def _show(
    at: Endpoints, blocks: Path | None, rpc: str | None, network: str, chain_id: int | None
) -> Outcome:
    with words().status("taking blocks in") as status:

        def progress(report: IngestReport) -> None:
            status.update(f"{report.blocks} blocks, {report.transactions} transactions committed")

        if blocks is None and rpc is None:
            return await show_synthetic(at, progress)
        chosen = await find_network(at.postgres.dsn(Role.INGEST), network, chain_id=chain_id)
        if rpc is not None:
            return await show_node(at, rpc, chosen, progress)
        return await show_files(at, [blocks] if blocks else [], chosen, progress)


def _answer(outcome: Outcome, json: bool) -> None:
    report = outcome.report
    if json:
        write_json(_facts(outcome))
        return
    label = "synthetic chain" if outcome.network.name == "synthetic" else outcome.network.name
    title = (
        f"{label}: {report.blocks} blocks, {report.transactions} transactions,"
        f" {report.logs} logs, {report.contracts} contracts in;"
        f" {report.skipped} blocks known already, {report.orphaned} taken back"
    )
    write_table(
        ("figure", "PostgreSQL", "ClickHouse", ""),
        [
            (
                f"{each.table}: {each.measure}",
                each.postgres,
                each.clickhouse,
                "=" if each.agrees else "≠",
            )
            for each in outcome.comparisons
        ],
        title=title,
    )
    write_table(
        ("store", "as of position"),
        [
            ("postgres", report.position),
            *((str(store), position) for store, position in outcome.reached.items()),
        ],
    )


def _facts(outcome: Outcome) -> dict[str, object]:
    report = outcome.report
    return {
        "network": outcome.network.name,
        "blocks": report.blocks,
        "transactions": report.transactions,
        "logs": report.logs,
        "contracts": report.contracts,
        "skipped": report.skipped,
        "orphaned": report.orphaned,
        "refused": [bad.message for bad in report.refused],
        "position": str(report.position),
        "stores": {str(store): str(position) for store, position in outcome.reached.items()},
        "agrees": outcome.agrees,
        "figures": [
            {
                "table": each.table,
                "figure": each.measure,
                "postgres": str(each.postgres),
                "clickhouse": str(each.clickhouse),
            }
            for each in outcome.comparisons
        ],
    }
