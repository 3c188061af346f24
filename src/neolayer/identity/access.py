"""What a check answers: who is asking, in which tenant, and what they may do.

access = await checks.check(bearer)
access.require("wallets:sign")
scope = core.scope(access.tenant, by=access.principal)
"""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

from neolayer.errors import AccessDenied
from neolayer.identity.permissions import allows
from neolayer.tenancy import Principal


class PermissionMissing(AccessDenied):
    """A permission is missing."""

    def __init__(self, permission: str) -> None:
        super().__init__(
            f"this needs the permission {permission}",
            hint="neolayer roles explain says which role would give it",
        )
        self.permission = permission


@dataclass(frozen=True, slots=True)
class Access:
    """An authenticated principal. `session_id` is set where a session proved it, not a key."""

    principal: Principal
    tenant: UUID
    permissions: frozenset[str]
    session_id: UUID | None = None

    def allows(self, permission: str) -> bool:
        """Whether the principal holds `resource:action`, by itself or by a wildcard."""
        return allows(self.permissions, permission)

    def require(self, permission: str) -> None:
        """Go on if the permission is held. Raises PermissionMissing naming it."""
        if not self.allows(permission):
            raise PermissionMissing(permission)
