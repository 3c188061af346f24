"""Clients of ClickHouse: clickhouse-connect over HTTP, for a server and for the embedded one."""

from __future__ import annotations

import re
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import replace

import clickhouse_connect
from clickhouse_connect.driver.asyncclient import AsyncClient
from clickhouse_connect.driver.exceptions import ClickHouseError

from neolayer.engines.endpoints import ClickHouseEndpoint
from neolayer.engines.loopback import is_loopback, spare_the_proxy
from neolayer.errors import EngineError, EngineUnavailable, NeolayerError

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 300  # without a byte; a large insert may take long
BOOTSTRAP_DATABASE = "default"


async def connect(
    endpoint: ClickHouseEndpoint,
    *,
    database: str | None = None,
    settings: dict[str, str] | None = None,
) -> AsyncClient:
    """An open client; `close` ends it. `database` overrides the endpoint's, not made yet perhaps.

    No session: one client's calls may overlap. Raises EngineUnavailable in one sentence.
    """
    if is_loopback(endpoint.host):
        spare_the_proxy(endpoint.host)
    try:
        return await clickhouse_connect.get_async_client(  # pyright: ignore[reportUnknownMemberType]
            host=endpoint.host,
            port=endpoint.port,
            username=endpoint.username,
            password=endpoint.password,
            database=database or endpoint.database,
            secure=endpoint.secure,
            settings=dict(settings or {}),
            connect_timeout=CONNECT_TIMEOUT_S,
            send_receive_timeout=ANSWER_TIMEOUT_S,
            autogenerate_session_id=False,
        )
    except (ClickHouseError, OSError) as exc:
        raise explain(exc, endpoint) from exc


async def connect_reader(endpoint: ClickHouseEndpoint) -> AsyncClient:
    """An open client that can only read and sees each row's newest version (`FINAL` unwritten).

    The server holds it to that: the embedded one by its reader, a real one by `readonly = 2`,
    under which settings may be given but not that one. Raises EngineUnavailable.
    """
    reader = endpoint
    if endpoint.reader_username is not None:
        reader = replace(
            endpoint, username=endpoint.reader_username, password=endpoint.reader_password
        )
    limits = {} if reader is not endpoint else {"readonly": "2"}
    return await connect(reader, settings={"final": "1", **limits})


@contextmanager
def translate(error: type[NeolayerError]) -> Generator[None]:
    """Raise the driver's errors as `error`, in the server's own first line."""
    try:
        yield
    except (ClickHouseError, OSError) as exc:
        raise error(_first_line(str(exc))) from exc


def explain(exc: BaseException, endpoint: ClickHouseEndpoint) -> EngineError:
    """The one sentence for a call that failed."""
    text = str(exc)
    lower = text.lower()
    if "authentication failed" in lower or "code: 516" in lower or "code: 194" in lower:
        meaning, hint = "refuses the password", "check user and password in clickhouse.dsn"
    elif "refused" in lower or "connect call failed" in lower:
        meaning, hint = "refuses the connection", "is the server running there?"
    elif "name or service not known" in lower or "name resolution" in lower:
        meaning, hint = "has a host name that is not known", "check clickhouse.dsn"
    elif "timeout" in lower or "timed out" in lower:
        meaning, hint = "does not answer in time", "check host, port and firewall"
    elif "code: 81" in lower or "unknown_database" in lower:
        meaning, hint = f"has no database {endpoint.database!r}", "run: neolayer migrate up"
    else:
        meaning, hint = f"cannot be used: {_first_line(text)}", None
    address = f"{endpoint.host}:{endpoint.port}"
    return EngineUnavailable("clickhouse", f"{address} {meaning}", hint=hint)


def _first_line(text: str) -> str:
    line = (text.strip().splitlines() or ["no reason given"])[0]
    return re.sub(r"\s*\(for url .*\)$", "", line)[:300]
