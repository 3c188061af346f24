"""Who is asking and what they may do: people, sessions, roles, services."""

from __future__ import annotations

from neolayer.identity.access import Access, PermissionMissing
from neolayer.identity.access_cache import AccessCache
from neolayer.identity.guarded import (
    EscalationRefused,
    LastOwner,
    NameTaken,
    PrincipalNotFound,
    refusal,
)
from neolayer.identity.roles import Explanation, Grant, Role, RoleNotFound, Roles
from neolayer.identity.services import Key, NewKey, Service, ServiceNotFound, Services
from neolayer.identity.session_tokens import UnknownToken
from neolayer.identity.sessions import (
    Session,
    SessionNotFound,
    SessionPolicy,
    Sessions,
    Tokens,
    end_sessions,
)

__all__ = [
    "Access",
    "AccessCache",
    "EscalationRefused",
    "Explanation",
    "Grant",
    "Key",
    "LastOwner",
    "NameTaken",
    "NewKey",
    "PermissionMissing",
    "PrincipalNotFound",
    "Role",
    "RoleNotFound",
    "Roles",
    "Service",
    "ServiceNotFound",
    "Services",
    "Session",
    "SessionNotFound",
    "SessionPolicy",
    "Sessions",
    "Tokens",
    "UnknownToken",
    "end_sessions",
    "refusal",
]
