"""Permissions: `resource:action`, and the wildcards `wallets:*`, `*:read` and `*`.

The catalogue of those that exist is in the database (migration 0032); wildcards are entries of it.
"""

from __future__ import annotations

import re

from neolayer.errors import InvalidInput

EVERYTHING = "*"
_PERMISSION = re.compile(r"[a-z][a-z0-9_]{0,49}:[a-z][a-z0-9_]{0,49}")


def require_permission_name(permission: str) -> str:
    """The name, if it is one of a single permission. Raises InvalidInput."""
    if _PERMISSION.fullmatch(permission) is None:
        raise InvalidInput(
            f"no permission: {permission[:100]!r}", hint="write resource:action, as wallets:sign"
        )
    return permission


def patterns_for(permission: str) -> tuple[str, str, str, str]:
    """What a role may hold to allow this permission, the narrowest first."""
    resource, _, action = permission.partition(":")
    return permission, f"{resource}:*", f"*:{action}", EVERYTHING


def allows(held: frozenset[str], permission: str) -> bool:
    """Whether any pattern held covers the permission."""
    return not held.isdisjoint(patterns_for(permission))
