"""The signed tenant context: what `core.verified_context()` in the database checks.

A context names a tenant and a principal for one transaction and says until when. It is signed, so
that a client which can run SQL but has no key cannot assume a tenant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from time import monotonic
from uuid import UUID

from neolayer.engines.endpoints import Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.errors import InvalidInput, MigrationError
from neolayer.schema.context_secret import read_context_secret, sign_context

# Longer than any transaction should last: after it the rest of the transaction sees no rows.
LIFETIME = timedelta(minutes=5)
_GIVEN_OUT_FOR_S = 20.0  # signing costs as much as a quarter of a point read
_MOST_FRESH = 10_000
_NOBODY = UUID(int=0)  # no tenant's id, so a context of it matches no row


class Kind(StrEnum):
    """Who can act."""

    USER = "user"
    SERVICE = "service"
    OPERATOR = "operator"
    SYSTEM = "system"
    ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class Principal:
    """Whoever acts, as `kind:name`: a user or service by id, an operator or our own work by name.

    Dots separate the parts of a context, so a name has none.
    """

    kind: Kind
    name: str

    def __post_init__(self) -> None:
        if not self.name or "." in self.name or not self.name.isprintable():
            raise InvalidInput(f"a principal's name is printable text without dots: {self.name!r}")

    def __str__(self) -> str:
        return f"{self.kind}:{self.name}"

    @property
    def user_id(self) -> UUID | None:
        """The user's id where a user acts."""
        return UUID(self.name) if self.kind is Kind.USER else None

    @classmethod
    def user(cls, user_id: UUID) -> Principal:
        """A person who has authenticated."""
        return cls(Kind.USER, str(user_id))

    @classmethod
    def service(cls, service_id: UUID) -> Principal:
        """A tenant's program, authenticated by an API key."""
        return cls(Kind.SERVICE, str(service_id))

    @classmethod
    def operator(cls, name: str) -> Principal:
        """A person who runs the layer; dots in the name become dashes."""
        return cls(Kind.OPERATOR, name.replace(".", "-"))

    @classmethod
    def system(cls, name: str) -> Principal:
        """The layer's own periodic work."""
        return cls(Kind.SYSTEM, name)

    @classmethod
    def anonymous(cls) -> Principal:
        """Somebody who has not authenticated yet."""
        return cls(Kind.ANONYMOUS, "-")

    @classmethod
    def parse(cls, text: str) -> Principal:
        """The principal that `str` wrote. Raises InvalidInput."""
        kind, _, name = text.partition(":")
        try:
            return cls(Kind(kind), name)
        except ValueError:
            raise InvalidInput(f"no principal: {text!r}", hint="write kind:name") from None


@dataclass(frozen=True, slots=True)
class ContextSigner:
    """Signs contexts with the key that the database checks. A fresh one is given out again."""

    secret: bytes = field(repr=False)
    _fresh: dict[tuple[UUID | None, Principal], tuple[float, str]] = field(
        default_factory=dict[tuple[UUID | None, Principal], tuple[float, str]],
        init=False,
        repr=False,
        compare=False,
    )

    def sign(self, tenant: UUID | None, by: Principal, *, lifetime: timedelta = LIFETIME) -> str:
        """The value of `neolayer.context` for one transaction; without a tenant it sees no rows."""
        if lifetime is not LIFETIME:
            return self._sign(tenant, by, lifetime)
        now = monotonic()
        known = self._fresh.get((tenant, by))
        if known is not None and now < known[0] + _GIVEN_OUT_FOR_S:
            return known[1]
        if len(self._fresh) >= _MOST_FRESH:
            self._fresh.clear()
        context = self._sign(tenant, by, lifetime)
        self._fresh[tenant, by] = (now, context)
        return context

    def _sign(self, tenant: UUID | None, by: Principal, lifetime: timedelta) -> str:
        return sign_context(
            self.secret,
            tenant=tenant or _NOBODY,
            principal=str(by),
            expires_at=datetime.now(UTC) + lifetime,
        )


async def read_signer(endpoints: Endpoints) -> ContextSigner:
    """The signer for one layer. Raises MigrationError before the first migration, EngineError."""
    dsn = endpoints.postgres.dsn(Role.MIGRATOR)
    async with await connect(dsn, autocommit=True, application_name="context") as owner:
        secret = await read_context_secret(owner)
    if secret is None:
        raise MigrationError("no key signs contexts yet", hint="run: neolayer migrate up")
    return ContextSigner(secret)
