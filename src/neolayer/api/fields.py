"""The types of request bodies: bounded, typed, and closed against fields that are not theirs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated
from uuid import UUID

from litestar.params import FromPath
from msgspec import Meta, Struct

# No lone surrogates, and nothing that turns the reading order or is not seen: such text looks like
# another. Joiners (200c, 200d) stay, which scripts and emoji need.
_UNSEEN = r"\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff"
# `$` alone lets a last \n pass.
_PLAIN = rf"^[^\u0000-\u001f\u007f-\u009f{_UNSEEN}]*$(?!\n)"
_LINES = rf"^[^\u0000-\u0008\u000b-\u001f\u007f-\u009f{_UNSEEN}]*$"

Line = Annotated[str, Meta(min_length=1, max_length=255, pattern=_PLAIN)]
Note = Annotated[str, Meta(max_length=2000, pattern=_LINES)]
Secret = Annotated[str, Meta(min_length=1, max_length=4096)]
Token = Annotated[str, Meta(min_length=1, max_length=512)]
Code = Annotated[str, Meta(min_length=1, max_length=64)]
Hex = Annotated[str, Meta(pattern="^(0x)?([0-9a-fA-F]{2})*$", max_length=140_000)]

Instant = Annotated[datetime, Meta(tz=True)]

# What whoever has no token may have us keep while a body comes; a password in escapes fits.
STRANGERS_BODY = 64 * 1024

# Path and query.
Id = FromPath[UUID]


# What the database's times hold.
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2262, 1, 1, tzinfo=UTC)


def require_in_range(instant: datetime | None) -> None:
    """Raises ValueError outside of 1970 to 2261; for a body's `__post_init__`."""
    if instant is not None and not _FIRST <= instant < _LAST:
        raise ValueError("an instant is from 1970 to 2261")


class Body(Struct, forbid_unknown_fields=True, kw_only=True):
    """A request body: a field that it does not name is refused, not ignored."""
