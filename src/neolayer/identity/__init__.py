"""Who is asking and what they may do: people, logins, sessions, roles, services."""

from __future__ import annotations

from neolayer.identity.access import Access, PermissionMissing
from neolayer.identity.access_cache import AccessCache
from neolayer.identity.credentials import (
    Authenticated,
    BadCredentials,
    Client,
    CodeRequired,
    Credentials,
)
from neolayer.identity.guarded import (
    EscalationRefused,
    LastOwner,
    NameTaken,
    PrincipalNotFound,
    refusal,
)
from neolayer.identity.login import Login as Login
from neolayer.identity.mfa import Enrolment, SecondFactor, SecondFactorConflict, WrongCode
from neolayer.identity.model import AlreadyRegistered, InvalidName, Status, User, UserNotFound
from neolayer.identity.passwords import PasswordHasher, TooManyLogins, WeakPassword
from neolayer.identity.principals import person_named, service_named
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
from neolayer.identity.strangers import Strangers, TooManyTries
from neolayer.identity.tokens import BadToken, EmailTokens, Letter, Mailer
from neolayer.identity.users import Users

__all__ = [
    "Access",
    "AccessCache",
    "AlreadyRegistered",
    "Authenticated",
    "BadCredentials",
    "BadToken",
    "Client",
    "CodeRequired",
    "Credentials",
    "EmailTokens",
    "Enrolment",
    "EscalationRefused",
    "Explanation",
    "Grant",
    "InvalidName",
    "Key",
    "LastOwner",
    "Letter",
    "Login",
    "Mailer",
    "NameTaken",
    "NewKey",
    "PasswordHasher",
    "PermissionMissing",
    "PrincipalNotFound",
    "Role",
    "RoleNotFound",
    "Roles",
    "SecondFactor",
    "SecondFactorConflict",
    "Service",
    "ServiceNotFound",
    "Services",
    "Session",
    "SessionNotFound",
    "SessionPolicy",
    "Sessions",
    "Status",
    "Strangers",
    "Tokens",
    "TooManyLogins",
    "TooManyTries",
    "UnknownToken",
    "User",
    "UserNotFound",
    "Users",
    "WeakPassword",
    "WrongCode",
    "end_sessions",
    "person_named",
    "refusal",
    "service_named",
]
