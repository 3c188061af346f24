"""Does the ingest process grow with its input? Peak resident size at one and ten times."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

from bench.harness import Figure, Plan, compare, rounds
from bench.process import running
from bench.replay import BLOCKS_PER_COPY, replay
from bench.schema import NETWORK_ID, TEMPLATE, migrated_template
from bench.server import Databases, open_folder, postgres
from neolayer.engines.endpoints import Role

_COPIES = 16  # beyond what the decoder's bounded caches hold
_ONE, _TEN = "1x input", "10x input"


def figures(plan: Plan) -> Iterator[Figure]:
    paths = replay(10 * _COPIES)
    with open_folder() as folder, postgres(folder) as endpoint:
        databases = Databases(endpoint)
        migrated_template(databases)
        contenders = {
            _ONE: partial(_peak_mib, databases, paths[: _COPIES * BLOCKS_PER_COPY]),
            _TEN: partial(_peak_mib, databases, paths),
        }
        samples = rounds(contenders, plan.pick(2, 5), warm_up=False)
    yield compare("ingest-peak-memory-10x", samples, _TEN, _ONE)


def _peak_mib(databases: Databases, paths: list[Path]) -> float:
    """A process of its own each time: a peak never falls again."""
    databases.fresh("bench_layer", template=TEMPLATE)
    with running("ours") as process:
        outcome = process.run(
            dsn=databases.dsn(Role.INGEST, "bench_layer"),
            network_id=NETWORK_ID,
            paths=[str(path) for path in paths],
            blocks_per_commit=14,
            verify=True,
        )
    return outcome.peak_kb / 1024
