"""Every refusal as a problem document (RFC 9457): one shape, one place, nothing secret.

{"type": "about:blank", "title": "Not Found", "status": 404, "detail": "...", "hint": "..."}

What went wrong inside is logged and answered without a word about it.
"""

from __future__ import annotations

import math
import re
from datetime import timedelta
from http import HTTPStatus
from typing import Any, cast

import psycopg
from litestar import Request, Response
from litestar.exceptions import HTTPException, ValidationException

from neolayer.errors import (
    AccessDenied,
    Conflict,
    EngineUnavailable,
    InvalidInput,
    LimitExceeded,
    NeolayerError,
    NotFound,
    NotSupported,
    Unauthenticated,
    visible,
)
from neolayer.keys import KeysUnavailable
from neolayer.telemetry import log_error, mask

MEDIA_TYPE = "application/problem+json"
# On every answer, good or bad: nothing here is for a cache, nor for a browser to guess at.
HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}

# The first that fits counts, so what is special stands before what is general.
STATUS: tuple[tuple[type[NeolayerError], HTTPStatus], ...] = (
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (AccessDenied, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (InvalidInput, HTTPStatus.UNPROCESSABLE_ENTITY),
    (LimitExceeded, HTTPStatus.TOO_MANY_REQUESTS),
    (NotSupported, HTTPStatus.UNPROCESSABLE_ENTITY),
    (EngineUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (KeysUnavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)
# Of msgspec's messages: our regular expressions tell nobody what to write.
_PATTERN = re.compile(r"matching regex '.*?'(?= - at |; |$)|matching regex \".*?\"(?= - at |; |$)")
_SOON = timedelta(seconds=1)

_Request = Request[Any, Any, Any]


def from_neolayer_error(_: _Request, error: NeolayerError) -> Response[dict[str, Any]]:
    """What a room refused, by its kind; any other of our errors is our fault."""
    for kind, status in STATUS:
        if isinstance(error, kind):
            return problem(status, error.message, hint=error.hint, headers=_headers(error))
    return from_anything(_, error)


def _headers(error: NeolayerError) -> dict[str, str]:
    if isinstance(error, Unauthenticated):  # a wait would tell which tenants there are
        return {"WWW-Authenticate": "Bearer"}
    wait = getattr(error, "retry_after", None)  # a timedelta, where the room knows
    if wait is None and isinstance(error, EngineUnavailable | KeysUnavailable):
        wait = _SOON
    return {} if wait is None else _wait(wait)


def _wait(wait: timedelta) -> dict[str, str]:
    return {"Retry-After": str(max(1, math.ceil(wait.total_seconds())))}


def from_data_error(request: _Request, error: psycopg.DataError) -> Response[dict[str, Any]]:
    """A value that PostgreSQL cannot take and no room had refused before."""
    _log(request, error)
    return problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a value cannot be stored")


def from_lost_database(request: _Request, error: Exception) -> Response[dict[str, Any]]:
    """PostgreSQL is away, too busy, or took too long: another try may do."""
    _log(request, error)
    return problem(
        HTTPStatus.SERVICE_UNAVAILABLE, "the database does not answer now", headers=_wait(_SOON)
    )


def from_http_exception(_: _Request, error: HTTPException) -> Response[dict[str, Any]]:
    """What the framework refused: a path, a method, a body that cannot be read."""
    status = HTTPStatus(error.status_code)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return from_anything(_, error)
    if isinstance(error, ValidationException):
        return problem(HTTPStatus.BAD_REQUEST, _told(error))
    return problem(status, status.description or status.phrase, headers=error.headers or {})


def _told(error: ValidationException) -> str:
    """Which field is wrong and why, without the value that was sent."""
    entries = cast("list[dict[str, Any]]", error.extra if isinstance(error.extra, list) else [])
    parts = [f"{entry.get('key') or 'body'}: {entry.get('message')}" for entry in entries]
    told = _PATTERN.sub("of permitted characters", "; ".join(parts))
    return visible(told) or "the request cannot be read"


def from_anything(request: _Request, error: Exception) -> Response[dict[str, Any]]:
    """A fault of ours: logged with its cause, answered without it."""
    _log(request, error)
    return problem(HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed; the reason is in its log")


def _log(request: _Request, error: Exception) -> None:
    log_error(
        "request failed", path=request.url.path, error=f"{type(error).__name__}: {mask(str(error))}"
    )


def problem(
    status: HTTPStatus,
    detail: str,
    *,
    hint: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response[dict[str, Any]]:
    """One problem document."""
    body: dict[str, Any] = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "detail": mask(visible(detail)),
    }
    if hint:
        body["hint"] = mask(visible(hint))
    return Response(
        body, status_code=status.value, media_type=MEDIA_TYPE, headers=HEADERS | (headers or {})
    )


HANDLERS: dict[Any, Any] = {
    NeolayerError: from_neolayer_error,
    HTTPException: from_http_exception,
    psycopg.DataError: from_data_error,
    psycopg.OperationalError: from_lost_database,
    Exception: from_anything,
}
