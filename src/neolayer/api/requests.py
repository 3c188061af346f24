"""What a request may not be around its body, before a handler reads it.

Two readers of a header or a parameter that stands there twice see two different requests: a proxy
that checks the first and a handler that acts on the last can be made to disagree. And a filter that
a route does not have would silently not filter.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from litestar import Request
from litestar.connection import ASGIConnection
from litestar.exceptions import ValidationException
from litestar.openapi.spec import Parameter

from neolayer.api.bodies import check_body
from neolayer.nuls import HoldsNul

_ONCE = (b"host", b"authorization")


class BadHeader(ValidationException):
    """A header that cannot be taken as it came."""

    def __init__(self, name: str) -> None:
        super().__init__(extra=[{"key": name, "message": "stands there twice", "source": "header"}])


class BadParameter(ValidationException):
    """A query parameter that the route does not have, or not twice."""

    def __init__(self, name: str, message: str) -> None:
        super().__init__(extra=[{"key": name[:100], "message": message, "source": "query"}])


async def check_request(request: Request[Any, Any, Any]) -> None:
    """Before each handler. Raises BadHeader, BadParameter, HoldsNul, BadBody, SlowBody."""
    check_headers(request)
    _check_path(request)
    if request.query_params:
        _check_query(request)
    await check_body(request)


def check_headers(connection: ASGIConnection[Any, Any, Any, Any]) -> None:
    """Before anything is believed. Raises BadHeader, HoldsNul."""
    seen: set[bytes] = set()
    for name, value in connection.scope["headers"]:
        if name in _ONCE:
            if name in seen:
                raise BadHeader(name.decode())
            seen.add(name)
        if b"\0" in value:
            raise HoldsNul(name.decode("latin-1"))


def _check_path(request: Request[Any, Any, Any]) -> None:
    for name, value in request.path_params.items():
        if isinstance(value, str) and "\0" in value:
            raise HoldsNul(name)


def _check_query(request: Request[Any, Any, Any]) -> None:
    known = _parameters(request) if request.url.path.startswith("/v1/") else None
    seen: set[str] = set()
    for name, value in request.query_params.multi_items():
        if known is not None and name not in known:
            raise BadParameter(name, "unknown")
        if name in seen:
            raise BadParameter(name, "stands there twice")
        if "\0" in value:
            raise HoldsNul(name)
        seen.add(name)


def _parameters(request: Request[Any, Any, Any]) -> Collection[str]:
    """What may stand in the query of this route, as the OpenAPI document has it."""
    paths = request.app.openapi_schema.paths or {}
    item = paths.get(request.scope["path_template"])
    operation = getattr(item, request.method.lower(), None)
    described = (operation.parameters if operation else None) or ()
    return {p.name for p in described if isinstance(p, Parameter) and p.param_in == "query"}
