"""JSON objects given as options: taken as they are written, or refused.

A number that would be stored as another one and a name that stands there twice are nobody's wish.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any, cast

from neolayer.errors import InvalidInput
from neolayer.nuls import refuse_halves, refuse_nul

_LEAST, _MOST = -(2**63), 2**64 - 1
_LONGEST_NUMBER = 40


def json_object(text: str, option: str) -> dict[str, Any]:
    """The object that an option says. Raises InvalidInput."""
    try:
        value = json.loads(
            text,
            object_pairs_hook=_distinct,
            parse_int=_whole,
            parse_float=_exact,
            parse_constant=_refuse,
        )
    except InvalidInput as exc:
        raise InvalidInput(f"{option}: {exc.message}", hint=exc.hint) from None
    except (ValueError, RecursionError) as exc:
        raise InvalidInput(f"{option} is not JSON: {exc}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{option} is not a JSON object", hint='such as {"amount": 5}')
    refuse_nul(value, option)
    refuse_halves(value, option)
    return cast("dict[str, Any]", value)


def _distinct(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise InvalidInput(f"the name {name[:100]!r} stands there twice")
        found[name] = value
    return found


def _whole(text: str) -> int:
    if len(text) > _LONGEST_NUMBER or not _LEAST <= int(text) <= _MOST:
        raise _inexact(text)
    return int(text)


def _exact(text: str) -> float:
    value = float(text)
    if len(text) > _LONGEST_NUMBER or Decimal(text) != Decimal(repr(value)):
        raise _inexact(text)
    return value


def _inexact(text: str) -> InvalidInput:
    shown = text if len(text) <= _LONGEST_NUMBER else f"{text[:_LONGEST_NUMBER]}..."
    return InvalidInput(
        f"the number {shown} would not be kept exactly",
        hint=f'write it as text: "{shown}"',
    )


def _refuse(word: str) -> Any:
    raise InvalidInput(f"{word} is no JSON", hint="write null or a text")
