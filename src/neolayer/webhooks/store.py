"""The verbs over a tenant's webhooks.

    webhooks = Webhooks(scope, keyring)
    made = await webhooks.create("billing", "https://acme.example/hooks", ["wallet.*"])
    print(made.secret)      # this once

A secret is sealed under the keyring, bound to its tenant and webhook, and opened only to sign.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import orjson
import psycopg

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.errors import InvalidInput, NeolayerError
from neolayer.keys import Keyring, key_id_of
from neolayer.tenancy import Scope, Transaction
from neolayer.webhooks import signing
from neolayer.webhooks.model import (
    Delivery,
    NewWebhook,
    TooManyWaiting,
    Webhook,
    WebhookExists,
    WebhookNotFound,
    checked_name,
    checked_types,
    checked_url,
)

QUERIES = load_queries(__name__)
LONGEST_OVERLAP = timedelta(days=30)
TRIAL = "webhook.trial"


@dataclass(frozen=True, slots=True)
class Webhooks:
    """The webhooks of one tenant."""

    scope: Scope
    keyring: Keyring

    async def create(self, name: str, url: str, event_types: Sequence[str]) -> NewWebhook:
        """An endpoint that is told from now on. Raises InvalidInput, WebhookExists."""
        asked = {
            "name": checked_name(name),
            "url": checked_url(url),
            "event_types": checked_types(event_types),
        }
        with _name_at_the_door():
            async with self.scope.transaction() as tx:
                row = await tx.one(QUERIES.create_webhook, asked)
                assert row is not None
                secret = signing.new_secret()
                await self._add_secret(tx, row[0], secret)
                said = {"name": name, "url": asked["url"], "event_types": asked["event_types"]}
                _audit(tx, "CREATE", row[0], said)
        return NewWebhook(row[0], signing.shown(secret))

    async def list(self) -> Sequence[Webhook]:
        """The tenant's webhooks by name, with what waits and what is parked."""
        rows = await self.scope.fetch(QUERIES.list_webhooks, {"name": None})
        return [_webhook(row) for row in rows]

    async def get(self, name: str) -> Webhook:
        """One by name. Raises WebhookNotFound."""
        row = await self.scope.one(QUERIES.list_webhooks, {"name": name})
        if row is None:
            raise WebhookNotFound
        return _webhook(row)

    async def change(
        self,
        webhook_id: UUID,
        *,
        url: str | None = None,
        event_types: Sequence[str] | None = None,
    ) -> None:
        """Give another address or filter; it counts for what comes. Raises WebhookNotFound."""
        asked = {
            "url": None if url is None else checked_url(url),
            "event_types": None if event_types is None else checked_types(event_types),
        }
        async with self.scope.transaction() as tx:
            _require(await tx.one(QUERIES.set_webhook, {"id": webhook_id, **asked}))
            _audit(tx, "UPDATE", webhook_id, {k: v for k, v in asked.items() if v is not None})

    async def rotate(
        self, webhook_id: UUID, *, overlap: timedelta = timedelta(days=1)
    ) -> NewWebhook:
        """Another secret; the others sign beside it for the overlap (zero: no more).

        Raises WebhookNotFound, InvalidInput, TooManySecrets.
        """
        if not timedelta(0) <= overlap <= LONGEST_OVERLAP:
            raise InvalidInput(f"an overlap is up to {LONGEST_OVERLAP.days} days")
        secret = signing.new_secret()
        with _absent_at_the_door():
            async with self.scope.transaction() as tx:
                made = await self._add_secret(tx, webhook_id, secret)
                retired = {"webhook_id": webhook_id, "overlap": overlap, "but": made}
                await tx.execute(QUERIES.retire_secrets, retired)
                signing_now = await tx.one(QUERIES.count_secrets, {"webhook_id": webhook_id})
                if signing_now is not None and signing_now[0] > signing.MOST_SECRETS:
                    raise signing.TooManySecrets
                _audit(tx, "UPDATE", webhook_id, {"overlap_seconds": overlap.total_seconds()})
        return NewWebhook(webhook_id, signing.shown(secret))

    async def disable(self, webhook_id: UUID, *, reason: str = "by its tenant") -> None:
        """Tell it nothing more; what waits for it stays a while. Raises WebhookNotFound."""
        await self._set_status(webhook_id, "disabled", reason[:500])

    async def enable(self, webhook_id: UUID) -> None:
        """Go on with what waits, and tell it what comes. Raises WebhookNotFound."""
        await self._set_status(webhook_id, "active", None)

    async def delete(self, webhook_id: UUID) -> None:
        """Delete it with what waits for it. Raises WebhookNotFound."""
        async with self.scope.transaction() as tx:
            _require(await tx.one(QUERIES.delete_webhook, {"id": webhook_id}))
            _audit(tx, "DELETE", webhook_id, {})

    async def send_trial(self, webhook_id: UUID) -> str:
        """Put one event of type webhook.trial behind what waits; its id.

        Raises WebhookNotFound, TooManyWaiting.
        """
        event_id = str(uuid4())
        body: dict[str, object] = {
            "id": event_id,
            "type": TRIAL,
            "tenant": str(self.scope.tenant),
            "time": datetime.now(UTC).isoformat().replace("+00:00", "Z"),
            "data": {},
        }
        asked = {
            "webhook_id": webhook_id,
            "event_id": event_id,
            "event_type": TRIAL,
            "version": 0,
            "envelope": orjson.dumps(body).decode(),
        }
        with _number_at_the_door("webhook_deliveries_waiting_check", TooManyWaiting()):
            _require(await self.scope.one(QUERIES.enqueue_one, asked))
        return event_id

    async def deliveries(
        self, webhook_id: UUID, *, status: str | None = None, limit: int = 100
    ) -> Sequence[Delivery]:
        """The newest deliveries, the newest first; none of an absent webhook."""
        asked = {"webhook_id": webhook_id, "status": status, "limit": min(max(limit, 1), 1_000)}
        return [Delivery(*row) for row in await self.scope.fetch(QUERIES.list_deliveries, asked)]

    async def replay(self, webhook_id: UUID, numbers: Sequence[int] | None = None) -> int:
        """Send again what was parked, or deliveries by number; how many."""
        asked = {"webhook_id": webhook_id, "numbers": None if numbers is None else [*numbers]}
        async with self.scope.transaction() as tx:
            row = await tx.one(QUERIES.replay_deliveries, asked)
            count = int(row[0]) if row else 0
            _audit(tx, "EXECUTE", webhook_id, {"operation": "replay", "deliveries": count})
        return count

    async def _add_secret(self, tx: Transaction, webhook_id: UUID, secret: bytes) -> UUID:
        bound_to = binding(self.scope.tenant, webhook_id)
        sealed = await self.keyring.seal(secret, bound_to=bound_to)
        asked = {
            "webhook_id": webhook_id,
            "sealed_secret": sealed,
            "key_id": key_id_of(sealed),
        }
        with _number_at_the_door("webhook_secrets_number_check", signing.TooManySecrets()):
            row = await tx.one(QUERIES.add_secret, asked)
        assert row is not None
        return row[0]

    async def _set_status(self, webhook_id: UUID, status: str, reason: str | None) -> None:
        asked = {"id": webhook_id, "status": status, "reason": reason}
        async with self.scope.transaction() as tx:
            _require(await tx.one(QUERIES.set_webhook_status, asked))
            _audit(tx, "UPDATE", webhook_id, {"status": status})


def binding(tenant: UUID | None, webhook_id: UUID) -> dict[str, str]:
    """What a webhook's sealed secret is bound to."""
    return {"tenant": str(tenant), "webhook": str(webhook_id)}


def _webhook(row: Sequence[object]) -> Webhook:
    webhook_id, name, url, types, *rest = row
    return Webhook(webhook_id, name, url, tuple(types), *rest)  # pyright: ignore


def _require(row: Sequence[object] | None) -> None:
    if row is None:
        raise WebhookNotFound


def _audit(
    tx: Transaction, action: audit.Action, webhook_id: UUID, changes: Mapping[str, object]
) -> None:
    audit.append(tx, audit.Entry(action, "webhook", str(webhook_id), changes))


@contextmanager
def _name_at_the_door() -> Generator[None]:
    try:
        yield
    except psycopg.errors.UniqueViolation as exc:
        if exc.diag.constraint_name != "webhooks_name_unique":
            raise
        raise WebhookExists from None


@contextmanager
def _number_at_the_door(constraint: str, ours: NeolayerError) -> Generator[None]:
    """The database's word for one too many, in ours."""
    try:
        yield
    except psycopg.errors.CheckViolation as exc:
        if exc.diag.constraint_name != constraint:
            raise
        raise ours from None


@contextmanager
def _absent_at_the_door() -> Generator[None]:
    """The database's word for a webhook that is not there, in ours."""
    try:
        yield
    except psycopg.errors.ForeignKeyViolation as exc:
        if exc.diag.constraint_name != "webhook_secrets_webhook_fkey":
            raise
        raise WebhookNotFound from None
