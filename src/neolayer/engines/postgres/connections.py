"""Connections to PostgreSQL, and what it says when there is none.

Every connection of the layer is made here: the C implementation of psycopg only, a name that shows
in `pg_stat_activity`, a bounded wait, and one sentence without secrets when the door stays shut.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from types import MappingProxyType, TracebackType
from typing import Any, TypeVar

import psycopg
import psycopg_pool
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow

from neolayer.errors import EngineError, EngineFull, EngineUnavailable, NotSupported

Connection = psycopg.AsyncConnection[TupleRow]
C = TypeVar("C", bound=Connection)
Pool = psycopg_pool.AsyncConnectionPool[Connection]

CONNECT_TIMEOUT_S = 10
# A peer that vanished without a word (its host is gone, a firewall forgot the connection) would be
# waited for for hours: it is asked after half a minute of silence, and given up after another.
# What was sent and not even received is given up as soon. A DSN may say otherwise.
_PEER_VANISHED = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 60_000,
}

# libpq's words for a failed connection -> what happened, and the way out.
_FAILURES: tuple[tuple[str, str, str | None], ...] = (
    ("password authentication failed", "refuses the password", "check user and password"),
    ("no password supplied", "asks for a password and the DSN has none", "add one to the DSN"),
    ("connection refused", "refuses the connection", "is the server running there?"),
    ("no pg_hba.conf entry", "does not let us in from here", "add a line to its pg_hba.conf"),
    ("does not exist", "does not know the database or role", "check the DSN"),
    ("could not translate host name", "has a host name that is not known", "check the DSN"),
    ("name or service not known", "has a host name that is not known", "check the DSN"),
    ("failed to resolve host", "has a host name that is not known", "check the DSN"),
    ("timeout expired", "does not answer in time", "check host, port and firewall"),
    ("too many clients", "has no free connection", "raise max_connections or close sessions"),
    ("server closed the connection", "closed the connection", "look into its log"),
    ("starting up", "is still starting", None),
    ("shutting down", "is shutting down", None),
)
_NO_ROOM = "no space left on device"


def require_c_psycopg() -> None:
    """Refuse psycopg's pure-Python implementation. Raises NotSupported.

    It is several times slower at COPY, and would be chosen in silence where the wheel is missing.
    """
    if pq.__impl__ == "python":
        raise NotSupported(
            "postgres",
            "psycopg runs without its C part, which is too slow for this layer",
            hint="install it: pip install 'psycopg[binary]'",
        )


def address_of(dsn: str) -> str:
    """`host:port` of a DSN, for people; never holds a secret. Raises EngineUnavailable."""
    values = _parse(dsn)
    host = values.get("host") or values.get("hostaddr") or "localhost"
    return f"{host}:{values.get('port') or 5432}"


def _parse(dsn: str) -> Mapping[str, Any]:
    try:
        return conninfo_to_dict(dsn)
    except psycopg.Error:
        # libpq quotes the part it stumbled over, which may be the password: `from None`.
        raise EngineUnavailable(
            "postgres",
            "the DSN cannot be read",
            hint="write postgresql://user:password@host:port/database",
        ) from None


def explain(exc: BaseException, dsn: str) -> EngineError:
    """The one sentence for a connection that failed."""
    text = str(exc)
    if _NO_ROOM in text.lower():
        return no_room(address_of(dsn), _last(text))
    for words, meaning, hint in _FAILURES:
        if words in text.lower():
            return EngineUnavailable("postgres", f"{address_of(dsn)} {meaning}", hint=hint)
    return EngineUnavailable("postgres", f"{address_of(dsn)} cannot be reached: {_last(text)}")


def no_room(server: str, cause: str) -> EngineFull:
    """The one error for a server whose disk is full; waiting does not help."""
    return EngineFull(
        "postgres",
        f"{server} has no room left on its disk: {cause}",
        hint="free some space and run it again: what is committed stays",
    )


def _last(text: str) -> str:
    """The last statement of libpq's several lines, without its preamble."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return re.sub(r"^.*(?:failed|FATAL): +", "", lines[-1]) if lines else "no reason given"


def _conninfo(dsn: str, application_name: str) -> str:
    values = dict(_parse(dsn))
    values: dict[str, Any] = {**_PEER_VANISHED, "connect_timeout": CONNECT_TIMEOUT_S, **values}
    values["application_name"] = f"neolayer {application_name}"
    return make_conninfo(**values)


def with_settings(dsn: str, settings: Mapping[str, str]) -> str:
    """The same DSN for a session that begins with these settings, whatever its role's are."""
    values = dict(_parse(dsn))
    options = [values.get("options", "")]
    options += [f"-c {name}={_escaped(value)}" for name, value in settings.items()]
    values["options"] = " ".join(options).strip()
    return make_conninfo(**values)


def _escaped(value: str) -> str:
    """As the server reads `options`: a backslash takes the next character as it is."""
    return re.sub(r"([\\\s])", r"\\\1", value)


def impatient(dsn: str, *, lock_ms: int) -> str:
    """The same DSN for a session that waits no longer than that for a lock."""
    return with_settings(dsn, {"lock_timeout": str(lock_ms)})


class _ClosedWithItsBlock(Connection):
    """Its `async with` closes it also where the commit at the end is cancelled or fails."""

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await super().__aexit__(kind, exc, traceback)
        finally:
            await self.close()


async def connect(dsn: str, *, autocommit: bool = False, application_name: str) -> Connection:
    """An open connection; close it, or use it in `async with`.

    Raises EngineUnavailable in one sentence that masks the DSN.
    """
    return await connect_as(
        _ClosedWithItsBlock,
        dsn,
        autocommit=autocommit,
        application_name=application_name,
    )


async def connect_as(
    kind: type[C],
    dsn: str,
    *,
    autocommit: bool,
    application_name: str,
    prepare_threshold: int | None = 5,
    settings: Mapping[str, str] = MappingProxyType({}),
) -> C:
    """The same as a connection of that class, whose session begins with these settings."""
    require_c_psycopg()
    conninfo = _conninfo(with_settings(dsn, settings) if settings else dsn, application_name)
    try:
        return await kind.connect(
            conninfo, autocommit=autocommit, prepare_threshold=prepare_threshold
        )
    except psycopg.Error as exc:
        raise explain(exc, dsn) from exc


@asynccontextmanager
async def open_pool(
    dsn: str,
    *,
    size: int = 8,
    autocommit: bool = False,
    application_name: str,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> AsyncGenerator[Pool]:
    """A pool of up to `size` connections, closed at the end. Raises EngineUnavailable."""
    first = await connect(dsn, application_name=application_name)  # says why, a pool does not
    await first.close()
    pool: Pool = psycopg_pool.AsyncConnectionPool(
        _conninfo(dsn, application_name),
        min_size=1,
        max_size=size,
        open=False,
        timeout=timeout_s,
        kwargs={"autocommit": autocommit},
    )
    async with pool:
        yield pool
