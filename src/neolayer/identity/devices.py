"""Devices that somebody got in from before: their failures are counted apart from strangers'."""

from __future__ import annotations

from datetime import timedelta

from neolayer.engines.postgres.queries import load_queries
from neolayer.identity.credentials import Client
from neolayer.identity.stored_users import StoredUser
from neolayer.identity.tokens import new_token, token_hash
from neolayer.tenancy import Transaction

QUERIES = load_queries(__name__, "people.sql")
DEVICE_LIFETIME = timedelta(days=365)
MOST_DEVICES = 20


def remember(tx: Transaction, stored: StoredUser, client: Client) -> str:
    """The token by which the device is known from now on."""
    if stored.device_id is not None and client.device is not None:
        values = {"device_id": stored.device_id, "lifetime": DEVICE_LIFETIME}
        tx.defer(QUERIES.see_device, values)
        return client.device
    token = new_token()
    tx.defer(
        QUERIES.meet_device,
        {
            "tenant_id": tx.tenant,
            "user_id": stored.id,
            "token_hash": token_hash(token),
            "lifetime": DEVICE_LIFETIME,
        },
    )
    tx.defer(QUERIES.limit_devices, {"user_id": stored.id, "most": MOST_DEVICES})
    return token
