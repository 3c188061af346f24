"""Seeds that failed once, by kind: kept in `seeds.toml`, and run again before all others."""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SEEDS = Path(__file__).with_name("seeds.toml")


def kept(kind: str) -> list[int]:
    found: list[int] = tomllib.loads(SEEDS.read_text())[kind]
    return found


def keep(kind: str, *seeds: int) -> None:
    """Run these seeds from now on."""
    known = tomllib.loads(SEEDS.read_text())
    known[kind] = sorted({*known[kind], *seeds})
    head = SEEDS.read_text().splitlines()[0]
    SEEDS.write_text(
        "\n".join([head, *(f"{name} = {found}" for name, found in known.items())]) + "\n"
    )


@contextmanager
def keeping(kind: str, *seeds: int) -> Iterator[None]:
    """Keep the seeds of a run that fails, in whatever way but that somebody ends it."""
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        raise
    except BaseException:
        keep(kind, *seeds)
        raise
