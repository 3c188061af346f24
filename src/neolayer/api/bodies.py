"""What a request may not be, before a handler reads it: its query with what the route has not, its
JSON body ambiguous, deep, or of other types.

Two readers of `{"role": "member", "role": "owner"}` see two different bodies, so the one that
checks and the one that acts can be made to disagree; ours is refused by whoever comes first. And
the framework takes "5" for 5 and 0 for 1970, which is meant for query strings.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Collection
from itertools import accumulate
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.openapi.spec import Parameter
from litestar.status_codes import HTTP_408_REQUEST_TIMEOUT

DEEPEST = 64
# A string without an end is taken to the end, so that no byte is looked at twice.
_LITERAL = re.compile(rb'"(?:[^"\\]++|\\.)*+"?|[^\[\]{}"]++', re.DOTALL)
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}


class BadBody(ValidationException):
    """A body that cannot be taken as it is written."""

    def __init__(self, message: str) -> None:
        super().__init__(extra=[{"key": "body", "message": message}])


class SlowBody(HTTPException):
    """A body that did not come in time; its connection ends with the answer."""

    status_code = HTTP_408_REQUEST_TIMEOUT

    def __init__(self) -> None:
        super().__init__(headers={"connection": "close"})


class UnknownParameter(ValidationException):
    """A query parameter that the route does not have: a filter that would silently not filter."""

    def __init__(self, name: str) -> None:
        super().__init__(extra=[{"key": name[:100], "message": "unknown", "source": "query"}])


async def check_request(request: Request[Any, Any, Any]) -> None:
    """Before each handler. Raises UnknownParameter, BadBody."""
    if request.query_params and request.url.path.startswith("/v1/"):
        known = _parameters(request)
        for name in request.query_params:
            if name not in known:
                raise UnknownParameter(name)
    await check_body(request)


def _parameters(request: Request[Any, Any, Any]) -> Collection[str]:
    """What may stand in the query of this route, as the OpenAPI document has it."""
    paths = request.app.openapi_schema.paths or {}
    item = paths.get(request.scope["path_template"])
    operation = getattr(item, request.method.lower(), None)
    described = (operation.parameters if operation else None) or ()
    return {p.name for p in described if isinstance(p, Parameter) and p.param_in == "query"}


async def check_body(request: Request[Any, Any, Any]) -> None:
    """Before each handler. Raises BadBody, SlowBody; an absent one is the handler's to miss."""
    expected = request.route_handler.parsed_data_field
    if expected is None:
        return
    try:
        async with asyncio.timeout(request.app.state["layer"].body_seconds):
            body = await request.body()
    except TimeoutError:
        raise SlowBody from None
    except InternalServerException:  # the framework's word for a caller who went away
        raise BadBody("it ended early") from None
    if not body:
        return
    if depth(body) > DEEPEST:
        raise BadBody(f"nested deeper than {DEEPEST}")
    try:
        msgspec.json.decode(body, type=expected.annotation)
        json.loads(body, object_pairs_hook=_distinct, parse_int=str, parse_float=str)
    except BadBody:
        raise
    except (msgspec.DecodeError, ValueError) as exc:
        raise BadBody(str(exc)) from None


def depth(body: bytes) -> int:
    """How many brackets are open at once, outside of strings."""
    brackets = _LITERAL.sub(b"", body)
    return max(accumulate(_STEP.get(char, 0) for char in brackets), default=0)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise BadBody("a key stands there twice")
    return found
