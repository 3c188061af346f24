"""What of a login is written down, and where: in its tenant's trail, or in that of the platform."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from neolayer import audit
from neolayer.identity.backoff import Source
from neolayer.identity.credentials import Client
from neolayer.identity.stored_users import StoredUser
from neolayer.tenancy import Scope, Transaction


@dataclass(frozen=True, slots=True)
class Stray:
    """A tenant that was asked for and is not there, and where tries at it are written down.

    Its tries are counted apart from those at any other that is not there, as a tenant's own are:
    who has to wait is told sooner, and must not learn from that which of two names is taken.
    """

    tenant: str
    trail: Scope

    def counted(self, name: str, sources: Sequence[Source]) -> tuple[str, tuple[Source, ...]]:
        """The name and the sources that tries at it are counted under."""
        mine = tuple(replace(source, text=self._apart(source.text)) for source in sources)
        return self._apart(name), mine

    def _apart(self, text: str) -> str:
        return f"{len(self.tenant)} {self.tenant} {text}"

    def note(self, tx: Transaction, client: Client) -> None:
        """A try at it, in a transaction of `trail`."""
        entry = audit.Entry(
            "LOGIN",
            "tenant",
            success=False,
            error_message="a login to a tenant that is not there",
            ip_address=client.ip,
            user_agent=client.user_agent,
        )
        audit.append(tx, entry)


def note(tx: Transaction, stored: StoredUser, client: Client, why: str | None = None) -> None:
    """A login in the trail of its tenant, refused where there is a reason."""
    entry = audit.Entry(
        "LOGIN",
        "user",
        None if stored.id is None else str(stored.id),
        success=why is None,
        error_message=why,
        ip_address=client.ip,
        user_agent=client.user_agent,
    )
    audit.append(tx, entry)
