"""Where a page ended, as text that a caller hands back for the next one; written by us or refused.

    pages = Pages(scope, "wallets", {"network": network})
    after = pages.write(place)          # with the page
    place = pages.read(after)           # with the next request

The text is authenticated for the tenant, the question and its filters, so a page goes on only where
it ended: not in another tenant, wallet or filter, and not at a place that somebody made up. Its key
is derived from the one that signs contexts, which every process of the layer has.
"""

from __future__ import annotations

import base64
import binascii
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256

import msgspec

from neolayer.errors import InvalidInput
from neolayer.tenancy.database import Scope

_PURPOSE = b"neolayer: where a page ended"
_MAC_BYTES = 16
_LONGEST = 1000


class ForgedCursor(InvalidInput):
    """This is not where a page of this list ended."""

    def __init__(self) -> None:
        super().__init__(hint="hand back `after` as it was given, with the same filters")


@dataclass(frozen=True, slots=True)
class Pages:
    """The pages of one question of one tenant; `filters` are what narrows it."""

    scope: Scope
    question: str
    filters: Mapping[str, object] = field(default_factory=dict[str, object])

    def write(self, place: bytes) -> str:
        """The place as URL-safe text."""
        return base64.urlsafe_b64encode(self._mac(place) + place).decode().rstrip("=")

    def read(self, text: str) -> bytes:
        """The place that `write` wrote for the same question. Raises ForgedCursor."""
        try:
            if len(text) > _LONGEST:
                raise ValueError
            raw = base64.b64decode(
                text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True
            )
        except (ValueError, binascii.Error):
            raise ForgedCursor from None
        mac, place = raw[:_MAC_BYTES], raw[_MAC_BYTES:]
        if not hmac.compare_digest(mac, self._mac(place)) or self.write(place) != text:
            raise ForgedCursor
        return place

    def _mac(self, place: bytes) -> bytes:
        key = hmac.digest(self.scope.core.signer.secret, _PURPOSE, sha256)
        filters = sorted((k, str(v)) for k, v in self.filters.items() if v is not None)
        bound_to = msgspec.json.encode((str(self.scope.tenant), self.question, filters))
        message = len(bound_to).to_bytes(4, "big") + bound_to + place
        return hmac.digest(key, message, sha256)[:_MAC_BYTES]
