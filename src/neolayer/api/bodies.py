"""What a body may not be, before a handler reads it: late, ambiguous, deep, or of other types.

Two readers of `{"role": "member", "role": "owner"}` see two different bodies, so the one that
checks and the one that acts can be made to disagree; ours is refused by whoever comes first. And
the framework takes "5" for 5 and 0 for 1970, which is meant for query strings.
"""

from __future__ import annotations

import asyncio
import json
import re
from itertools import accumulate
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException, InternalServerException, ValidationException
from litestar.status_codes import HTTP_408_REQUEST_TIMEOUT

from neolayer.nuls import refuse_nul, spells_nul

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


async def check_body(request: Request[Any, Any, Any]) -> None:
    """Before each handler. Raises BadBody, SlowBody, HoldsNul."""
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
    if body:
        _require_sound(body, expected.annotation)
    elif not expected.is_optional:
        raise BadBody("it is missing")


def _require_sound(body: bytes, expected: Any) -> None:
    if depth(body) > DEEPEST:
        raise BadBody(f"nested deeper than {DEEPEST}")
    try:
        if spells_nul(body):
            refuse_nul(json.loads(body), "body")
        msgspec.json.decode(body, type=expected)
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
