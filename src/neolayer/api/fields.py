"""The types of request bodies: bounded, typed, and closed against fields that are not theirs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated
from uuid import UUID

from litestar.params import FromPath, QueryParameter
from msgspec import Meta, Struct

# No control characters, no lone surrogates, no byte order marks; `$` alone lets a last \n pass.
_PLAIN = r"^[^\u0000-\u001f\u007f-\u009f\ud800-\udfff\ufeff]*$(?!\n)"

Line = Annotated[str, Meta(min_length=1, max_length=255, pattern=_PLAIN)]
Note = Annotated[str, Meta(max_length=2000)]
Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
Token = Annotated[str, Meta(min_length=1, max_length=512)]
Code = Annotated[str, Meta(min_length=1, max_length=64)]
Hex = Annotated[str, Meta(pattern="^(0x)?([0-9a-fA-F]{2})*$", max_length=140_000)]

Mark = Annotated[str, QueryParameter(max_length=255, pattern=_PLAIN)]  # where a page goes on
Instant = Annotated[datetime, Meta(tz=True)]

# Path and query.
Id = FromPath[UUID]


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body: a field that it does not name is refused, not ignored."""
