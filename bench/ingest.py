"""Block files to committed, indexed rows: ours, the floor, and ethereum-etl's two routes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from bench.claims import CSV, EXPORTER, EXPORTER_FAST, FLOOR
from bench.harness import Figure, Plan, Samples, alone, compare, difference, rounds
from bench.peers import peer_python
from bench.process import Outcome, Process, running
from bench.replay import BLOCKS_PER_COPY, replay
from bench.schema import NETWORK_ID, TEMPLATE, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.engines.endpoints import Role

OURS = "ours verified"
OURS_UNVERIFIED = "ours unverified"
BLOCKS_PER_COMMIT = 14
_COPIES = 16
_EXPORTER_COPIES = 2  # a thousand rows a second: more would only take longer


@dataclass(frozen=True, slots=True)
class Bench:
    """What all figures of ingest share."""

    databases: Databases
    ours: Process
    floor: Process
    peer: Process
    paths: Sequence[Path]

    def run_ours(self, *, verify: bool, size: int = BLOCKS_PER_COMMIT, **more: Any) -> float:
        """Transactions a second of one ingest into a fresh database."""
        return self._into_layer(self.ours, size, verify=verify, **more)

    def run_floor(self, *, size: int = BLOCKS_PER_COMMIT) -> float:
        return self._into_layer(self.floor, size)

    def _into_layer(
        self, process: Process, size: int, *, without: str | None = None, **options: Any
    ) -> float:
        self.databases.fresh("bench_layer", template=TEMPLATE)
        if without is not None:
            self._disable(without)
        outcome = process.run(
            dsn=self.databases.dsn(Role.INGEST, "bench_layer"),
            network_id=NETWORK_ID,
            paths=[str(path) for path in self.paths],
            blocks_per_commit=size,
            **options,
        )
        return self._checked(outcome, "bench_layer", "blockchain.transactions")

    def _disable(self, trigger: str) -> None:
        with psycopg.connect(self.databases.dsn(Role.ADMIN, "bench_layer")) as owner:
            owner.execute(f"ALTER TABLE blockchain.transactions DISABLE TRIGGER {trigger}")

    def run_peer(self, route: str, driver: str, copies: int) -> float:
        """Transactions a second of ethereum-etl into fresh tables of its own."""
        self.databases.fresh("bench_peer")
        dsn = self.databases.dsn(Role.ADMIN, "bench_peer")
        job = {
            "dsn": dsn,
            "url": _url(dsn, driver),
            "route": route,
            "paths": [str(path) for path in self.paths[: copies * BLOCKS_PER_COPY]],
            "blocks_per_commit": BLOCKS_PER_COMMIT,
        }
        self.peer.prepare(**job)
        return self._checked(self.peer.run(**job), "bench_peer", "public.transactions")

    def _checked(self, outcome: Outcome, database: str, table: str) -> float:
        stored = self.databases.count(database, table)
        if stored != outcome.transactions or not stored:
            raise SystemExit(f"{table}: {stored} rows stored, {outcome.transactions} reported")
        return outcome.per_second


def _url(dsn: str, driver: str) -> str:
    part = conninfo_to_dict(dsn)
    place = f"{part['host']}:{part['port']}/{part['dbname']}"
    return f"postgresql+{driver}://{part['user']}:{part['password']}@{place}"


def figures(plan: Plan) -> Iterator[Figure]:
    with _bench() as bench:
        yield from _against_peers(bench, plan)
        yield from _by_blocks_a_commit(bench, plan)
        yield from _uniqueness(bench, plan)
        yield from _decoding(bench, plan)
        yield from _senders(bench, plan)


@contextmanager
def _bench() -> Iterator[Bench]:
    paths = replay(_COPIES)
    with ExitStack() as stack:
        folder = stack.enter_context(open_folder())
        endpoint = stack.enter_context(postgres(folder))
        databases = Databases(endpoint)
        migrated_template(databases)
        yield Bench(
            databases,
            ours=stack.enter_context(running("ours")),
            floor=stack.enter_context(running("floor")),
            peer=stack.enter_context(running("ethereum_etl", peer_python())),
            paths=paths,
        )


def _against_peers(bench: Bench, plan: Plan) -> Iterator[Figure]:
    samples = rounds(
        {
            OURS: partial(bench.run_ours, verify=True),
            FLOOR: bench.run_floor,
            OURS_UNVERIFIED: partial(bench.run_ours, verify=False),
            CSV: partial(bench.run_peer, "csv", "psycopg2", _COPIES),
            EXPORTER: partial(bench.run_peer, "exporter", "pg8000", _EXPORTER_COPIES),
            EXPORTER_FAST: partial(bench.run_peer, "exporter", "psycopg2", _EXPORTER_COPIES),
        },
        plan.pick(6, 20),
    )
    yield compare("ingest-verified-vs-floor", samples, OURS, FLOOR)
    yield compare("ingest-unverified-vs-floor", samples, OURS_UNVERIFIED, FLOOR)
    yield compare("ingest-verified-vs-exporter", samples, OURS, EXPORTER)
    yield compare("ingest-verified-vs-exporter-psycopg2", samples, OURS, EXPORTER_FAST)
    yield compare("ingest-verified-vs-csv", samples, OURS, CSV)
    yield compare("ingest-unverified-vs-csv", samples, OURS_UNVERIFIED, CSV)


def _by_blocks_a_commit(bench: Bench, plan: Plan) -> Iterator[Figure]:
    for size in (1, 4, 14, 50):
        contenders = {
            OURS: partial(bench.run_ours, verify=True, size=size),
            FLOOR: partial(bench.run_floor, size=size),
        }
        samples = rounds(contenders, plan.pick(3, 10), warm_up=False)
        plural = "s" if size > 1 else ""
        yield compare(f"ingest-{size}-block{plural}-a-commit", samples, OURS, FLOOR)


def _uniqueness(bench: Bench, plan: Plan) -> Iterator[Figure]:
    contenders = {
        "with": partial(bench.run_ours, verify=False),
        "without": partial(bench.run_ours, verify=False, without="claim_keys"),
    }
    samples = rounds(contenders, plan.pick(5, 15), warm_up=False)
    yield alone("ingest-uniqueness-cost", difference(_microseconds(samples), "with", "without"))


def _decoding(bench: Bench, plan: Plan) -> Iterator[Figure]:
    """Everything here is the decoder's processor time alone; no database is involved."""

    def run(process: Process, **job: Any) -> float:
        return process.run(paths=[str(path) for path in bench.paths], **job).per_second

    bench.ours.prepare(paths=[str(path) for path in bench.paths])
    samples = rounds(
        {
            "verified": partial(run, bench.ours, work="decode", verify=True),
            "decode": partial(run, bench.ours, work="decode", verify=False),
            "roots": partial(run, bench.ours, work="roots"),
            FLOOR: partial(run, bench.floor, work="decode"),
        },
        plan.pick(5, 15),
    )
    cost = _microseconds(samples)
    total = difference(cost, "verified", "decode")
    yield alone("ingest-verification-cost", total)
    hashes = [whole - part for whole, part in zip(total, cost["roots"], strict=True)]
    yield alone("ingest-hash-cost", hashes)
    yield alone("ingest-root-cost", cost["roots"])
    yield compare("ingest-decode-alone", samples, "decode", FLOOR)


def _senders(bench: Bench, plan: Plan) -> Iterator[Figure]:
    """The real blocks alone, over and over: only they are signed by who they are from."""
    paths = [str(path) for path in bench.paths[:BLOCKS_PER_COPY]] * _COPIES

    def run(*, senders: bool) -> float:
        job = {"work": "decode", "verify": True, "senders": senders}
        return bench.ours.run(paths=paths, **job).per_second

    contenders = {"with": partial(run, senders=True), "without": partial(run, senders=False)}
    samples = rounds(contenders, plan.pick(5, 15))
    yield alone("ingest-sender-cost", difference(_microseconds(samples), "with", "without"))


def _microseconds(samples: Samples) -> Samples:
    return {name: [1e6 / value for value in values] for name, values in samples.items()}
