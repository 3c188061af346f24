"""What people call a wallet, file it under, and whom they give it to."""

from __future__ import annotations

import re
import unicodedata
from typing import Any
from uuid import UUID

from neolayer.errors import InvalidInput
from neolayer.wallets.model import MAX_NAME

_TYPE = re.compile(r"[a-z0-9][a-z0-9_-]{0,49}")


def labels(name: str | None, wallet_type: str | None, user_id: UUID | None) -> dict[str, Any]:
    """What is stored of them. Raises InvalidInput."""
    return {
        "name": None if name is None else checked_name(name),
        "wallet_type": None if wallet_type is None else checked_type(wallet_type),
        "user_id": user_id,
    }


def checked_name(text: str) -> str:
    """The name, composed and without spaces around it. Raises InvalidInput."""
    name = unicodedata.normalize("NFC", text).strip()
    if not 0 < len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInput(f"a wallet's name has 1 to {MAX_NAME} printable characters")
    return name


def checked_type(text: str) -> str:
    """The type, if it is one. Raises InvalidInput."""
    if not _TYPE.fullmatch(text):
        raise InvalidInput(
            f"{text[:60]!r} is no wallet type", hint="1 to 50 of a-z, 0-9, '_' and '-'"
        )
    return text
