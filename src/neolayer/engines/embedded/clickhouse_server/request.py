"""What a client asks for, read from the URL and headers; the body is `body.py`'s.

URL parameters are of three kinds: ones of the protocol (`database`, `session_id`), query
parameters (`param_x` fills `{x:Type}`), and settings (everything else), which go to the engine and
fail there with code 115 where it does not know them.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl

from neolayer.engines.embedded.clickhouse_server.faults import (
    BAD_ARGUMENTS,
    INVALID_SESSION_TIMEOUT,
    NOT_IMPLEMENTED,
    ClickHouseFault,
)

MAX_PARAMETERS = 4096
_PROTOCOL = frozenset(
    [
        "query",
        "database",
        "default_format",
        "user",
        "password",
        "session_id",
        "session_timeout",
        "session_check",
        "query_id",
        "quota_key",
        "compress",
        "decompress",
        "wait_end_of_query",
        "buffer_size",
        "client_protocol_version",
        "role",
        "stacktrace",
        "close_session",
    ]
)
_TRANSPORT_SETTINGS = frozenset(
    [
        "enable_http_compression",
        "http_zlib_compression_level",
        "send_progress_in_http_headers",
        "http_headers_progress_interval_ms",
        "cancel_http_readonly_queries_on_client_close",
        "log_comment",  # by which this server finds a query to kill
        "http_response_buffer_size",
        "http_wait_end_of_query",
        "readonly_http",
    ]
)
_PARAM = "param_"
_SETTING = re.compile(r"^[A-Za-z_]\w*$")
_FORMAT = re.compile(r"^[A-Za-z]\w*$")
_MAX_SESSION_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class SessionWish:
    id: str
    timeout_seconds: int
    must_exist: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """One request, without its body. `sql` is what the URL holds of the statement."""

    sql: bytes
    query_id: str
    default_format: str
    database: str | None
    session: SessionWish | None
    wait_for_end: bool
    compress: bool
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    settings: Mapping[str, str] = field(default_factory=dict[str, str])


def read_url(raw_path: str) -> dict[str, str]:
    """The URL's parameters; of one given twice the last counts."""
    _, _, raw_query = raw_path.partition("?")
    try:
        pairs = parse_qsl(
            raw_query,
            keep_blank_values=True,
            errors="surrogateescape",
            max_num_fields=MAX_PARAMETERS,
        )
    except ValueError as exc:
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"The URL is malformed: {exc}") from exc
    return dict(pairs)


def read_request(
    url: Mapping[str, str], headers: Mapping[str, str], *, external: Iterable[str] = ()
) -> Wanted:
    """Sort the parameters; those that describe `external` tables are not settings.

    Raises a fault for what this server cannot do.
    """
    taken = {f"{name}_{about}" for name in external for about in ("format", "structure", "types")}
    for name in ("compress", "decompress", "role"):
        if url.get(name, "0") not in {"0", ""}:
            raise ClickHouseFault.of(NOT_IMPLEMENTED, f"The parameter {name} is not supported here")
    return Wanted(
        sql=url.get("query", "").encode(errors="surrogateescape"),
        query_id=_header_safe(url.get("query_id") or str(uuid.uuid4())),
        default_format=_format(url.get("default_format") or headers.get("X-ClickHouse-Format")),
        database=url.get("database") or headers.get("X-ClickHouse-Database"),
        session=_session(url),
        wait_for_end=_is_on(url.get("wait_end_of_query")),
        compress=_is_on(url.get("enable_http_compression")),
        params={name[6:]: _clean(value) for name, value in url.items() if name.startswith(_PARAM)},
        settings={
            name: _clean(value)
            for name, value in url.items()
            if name not in taken and _is_setting(name)
        },
    )


def _is_setting(name: str) -> bool:
    if name in _PROTOCOL or name in _TRANSPORT_SETTINGS or name.startswith(_PARAM):
        return False
    if not _SETTING.match(name):
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"{name[:80]!r} is not a parameter or setting")
    return True


def _session(url: Mapping[str, str]) -> SessionWish | None:
    if not (session_id := url.get("session_id")):
        return None
    text = url.get("session_timeout", "60")
    if not text.isdecimal() or not 0 < int(text) <= _MAX_SESSION_SECONDS:
        reason = f"Session timeout must be 1 to {_MAX_SESSION_SECONDS} seconds, not {text[:20]!r}"
        raise ClickHouseFault.of(INVALID_SESSION_TIMEOUT, reason, status=400)
    return SessionWish(session_id, int(text), _is_on(url.get("session_check")))


def _format(name: str | None) -> str:
    if name and not _FORMAT.match(name):
        raise ClickHouseFault.of(BAD_ARGUMENTS, f"{name[:40]!r} is not the name of a format")
    return name or "TabSeparated"


def _header_safe(text: str) -> str:
    if not text.isprintable() or len(text) > 256 or not text.isascii():
        raise ClickHouseFault.of(BAD_ARGUMENTS, "query_id must be printable ASCII, 256 at most")
    return text


def _clean(value: str) -> str:
    return value.encode(errors="surrogateescape").decode(errors="replace")


def _is_on(value: str | None) -> bool:
    return (value or "0").lower() not in {"0", "false", ""}
