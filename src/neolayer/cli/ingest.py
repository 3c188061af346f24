"""`neolayer ingest`: blocks from files, or from a node."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskProgressColumn, TextColumn

from neolayer.chain.follow import Following, follow
from neolayer.chain.ingest import IngestReport
from neolayer.chain.model import Network
from neolayer.chain.pending import Pool
from neolayer.chain.registry import find_network, ingest_as, network_of
from neolayer.chain.sources.files import find_files, read_blocks, total_bytes
from neolayer.chain.sources.jsonrpc import open_rpc
from neolayer.chain.sources.neo_rpc import node_for
from neolayer.chain.sources.rpc import EvmNode, fetch_range
from neolayer.cli.output import say, words, write_json
from neolayer.cli.refusals import told
from neolayer.cli.retries import say_retries
from neolayer.cli.root import app, invocation
from neolayer.cli.values import Bigint, Positive
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import SettingsError
from neolayer.freshness import wait_for
from neolayer.platform import endpoints

_WAIT = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class _Run:
    """What every form of the command needs."""

    at: Endpoints
    network: Network
    verify: bool
    senders: bool
    blocks_per_commit: int | None

    @property
    def dsn(self) -> str:
        return self.at.postgres.dsn(Role.INGEST)


@app.command(name="ingest")
async def take_in(
    *paths: Annotated[Path, Parameter(help="Files of blocks, or folders of them.")],
    network: Annotated[str, Parameter(help="ethereum, neox, neo-n3 ..., or a new name.")],
    chain_id: Annotated[Positive | None, Parameter(help="The chain id of a new network.")] = None,
    rpc: Annotated[str | None, Parameter(help="A JSON-RPC endpoint in place of files.")] = None,
    first: Annotated[Bigint | None, Parameter(name="--from", help="First block.")] = None,
    last: Annotated[Bigint | None, Parameter(name="--to", help="Last block.")] = None,
    follow_head: Annotated[bool, Parameter(name="--follow", help="Stay with the head.")] = False,
    no_verify: Annotated[bool, Parameter(help="Take blocks on trust.")] = False,
    senders: Annotated[
        bool, Parameter(help="Recover every sender from its signature too; about 80 us each.")
    ] = False,
    wait: Annotated[bool, Parameter(help="Return when every store has the rows.")] = False,
    blocks_per_commit: Annotated[Positive | None, Parameter(help="Default: by rows.")] = None,
    json: Annotated[bool, Parameter(help="Print JSON.")] = False,
) -> int:
    """Take blocks in, verified and committed; safe to run twice.

    PATHS are files or folders of block objects, JSON-RPC answers or JSON lines, also packed as .gz
    or .zst; receipts may stand anywhere among them. Exit code 1 where a block was refused.

    Example: neolayer ingest ./blocks --network ethereum --wait

    Example: neolayer ingest --rpc http://127.0.0.1:8545 --network devnet --chain-id 31337 --follow
    """
    say_retries()
    _check(paths, rpc, first, last, follow_head)
    if senders and no_verify:
        raise SettingsError("--senders verifies and --no-verify does not; give one of them")
    at = endpoints(invocation().settings)
    named = await find_network(at.postgres.dsn(Role.INGEST), network, chain_id=chain_id)
    run = _Run(at, named, not no_verify, senders, blocks_per_commit)
    if rpc is None:
        report = await _from_files(run, paths)
    elif follow_head:
        report = await _follow(run, rpc, first, last)
    else:
        report = await _from_node(run, rpc, first or 0, last)
    if wait and report.position is not None:
        await wait_for(report.position, at, timeout=_WAIT)
    _answer(report, json)
    return 1 if report.refused else 0


def _check(
    paths: tuple[Path, ...], rpc: str | None, first: int | None, last: int | None, follows: bool
) -> None:
    if bool(paths) == (rpc is not None):
        raise SettingsError("give block files, or --rpc URL", hint="neolayer ingest --help")
    if rpc is None and (first is not None or last is not None or follows):
        raise SettingsError("--from, --to and --follow go with --rpc")
    if first is not None and last is not None and last < first:
        raise SettingsError(f"--to {last} is below --from {first}")


async def _from_files(run: _Run, paths: tuple[Path, ...]) -> IngestReport:
    with _bar(total_bytes(find_files(paths))) as bar:
        blocks = read_blocks(
            paths,
            network=run.network,
            verify=run.verify,
            senders=run.senders,
            on_bytes=bar.advance,
        )
        return await ingest_as(
            blocks,
            dsn=run.dsn,
            network=run.network,
            blocks_per_commit=run.blocks_per_commit,
            on_progress=bar.show,
        )


async def _from_node(run: _Run, url: str, first: int, last: int | None) -> IngestReport:
    async with open_rpc(url) as rpc:
        node = node_for(rpc, run.network, verify=run.verify, senders=run.senders)
        await node.check()
        end = await node.head() if last is None else last
        with _bar(max(end - first + 1, 0)) as bar:
            return await ingest_as(
                fetch_range(node, first=first, last=end),
                dsn=run.dsn,
                network=run.network,
                blocks_per_commit=run.blocks_per_commit,
                on_progress=bar.show_blocks,
            )


async def _follow(run: _Run, url: str, first: int | None, last: int | None) -> IngestReport:
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        rpc = await stack.enter_async_context(open_rpc(url))
        bar = stack.enter_context(_bar(None))
        node = node_for(rpc, run.network, verify=run.verify, senders=run.senders)
        await node.check()
        known = await network_of(run.dsn, run.network.name, chain_id=run.network.chain_id)
        following = Following(
            known, start=first or 0, until=last, blocks_per_commit=run.blocks_per_commit
        )
        pool = Pool(rpc) if isinstance(node, EvmNode) else None
        return await follow(
            node, dsn=run.dsn, following=following, pool=pool, on_progress=bar.show, stop=stop
        )


class _Bar:
    """Progress in bytes of files or in blocks of a node; words beside it."""

    def __init__(self, progress: Progress, total: int | None) -> None:
        self._progress = progress
        self._task = progress.add_task("waiting for blocks", total=total)

    def advance(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def show(self, report: IngestReport) -> None:
        said = f"{report.blocks:,} blocks, {report.transactions:,} transactions"
        self._progress.update(self._task, description=said)

    def show_blocks(self, report: IngestReport) -> None:
        self.show(report)
        self._progress.update(self._task, completed=report.blocks + report.skipped)


@contextmanager
def _bar(total: int | None) -> Generator[_Bar]:
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TaskProgressColumn())
    console = words()
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as progress:
        yield _Bar(progress, total)


def _answer(report: IngestReport, json: bool) -> None:
    for line in told(report.refused):
        say(line)
    if json:
        write_json(_facts(report))
        return
    refused = f"; {len(report.refused)} refused" if report.refused else ""
    position = "" if report.position is None else f"; as of position {report.position}"
    say(
        f"{report.blocks} blocks, {report.transactions} transactions, {report.logs} logs committed;"
        f" {report.skipped} blocks known already{refused}{position}"
    )


def _facts(report: IngestReport) -> dict[str, object]:
    return {
        "blocks": report.blocks,
        "transactions": report.transactions,
        "logs": report.logs,
        "contracts": report.contracts,
        "skipped": report.skipped,
        "orphaned": report.orphaned,
        "refused": [bad.message for bad in report.refused],
        "position": None if report.position is None else str(report.position),
    }
