"""One row of each tenant in every tenant table, made from the columns' types.

Written by the administrator with triggers and foreign keys off, so that one order fits all; what a
check asks for stands in `VALUES`. Ids are derived from tenant and table, so that references fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid5

from psycopg import sql
from psycopg.types.json import Jsonb

from tests.security.attacks.catalogue import Column, Session, Table

NETWORK = uuid5(UUID(int=0), "network")
PLATFORM_PERMISSION = uuid5(UUID(int=0), "permission")
NOW = datetime.now(UTC)
SOON = NOW + timedelta(days=1)

Value = Callable[[UUID], Any]


def digest(tenant: UUID, about: str) -> str:
    """64 hex digits that nobody else has."""
    return hashlib.sha256(f"{tenant}{about}".encode()).hexdigest()


def marker(tenant: UUID) -> str:
    """Text that gives a row away."""
    return f"mark-{tenant.hex}"


# `table.column`, or a column of any table -> its value.
VALUES: dict[str, Value] = {
    "core.tenants.identifier": lambda t: f"t{t.hex}",
    "core.tenants.limits": lambda t: Jsonb({}),
    "auth.users.email": lambda t: f"{marker(t)}@example.com",
    "auth.login_failures.kind": lambda t: "pair",
    "auth.one_time_tokens.purpose": lambda t: "password_reset",
    "core.outbox.subject": lambda t: marker(t),
    "core.outbox.event_type": lambda t: marker(t),
    "core.webhooks.url": lambda t: f"https://{marker(t)}.example/",
    "core.webhooks.event_types": lambda t: ["*"],
    "core.webhooks.status": lambda t: "active",
    "core.webhook_deliveries.status": lambda t: "pending",
    "core.webhook_deliveries.version": lambda t: 1,
    "network_id": lambda t: NETWORK,
    "permission_id": lambda t: PLATFORM_PERMISSION,
    "is_system": lambda t: False,
    "ip_address": lambda t: "192.0.2.1",
    "action": lambda t: "UPDATE",
    "attestation_type": lambda t: "DCAP",
    "policy": lambda t: "USER_DEFINED",
    "wallet_type": lambda t: "custodial",
    "version": lambda t: 1,
    "expires_at": lambda t: SOON,
    "blockchain.wallets.address": lambda t: "0x" + digest(t, "address")[:40],
    "blockchain.wallets.public_key": lambda t: None,
    "blockchain.wallets.encrypted_private_key": lambda t: None,
    "blockchain.wallets.key_id": lambda t: None,
    "chain_number": lambda t: t.int % 1_000_000 + 1,
    "previous_hash": lambda t: bytes(32),
    "entry_hash": lambda t: bytes.fromhex(digest(t, "entry")),
    "sealed_at": lambda t: NOW,
    "event_version": lambda t: 1,
    "snapshot_version": lambda t: 1,
    "appended": lambda t: 1,
    "aggregate_type": marker,
    "public.subscriptions.subscription": marker,
    "public.subscription_partitions.subscription": marker,
    "public.subscription_consumers.subscription": marker,
    "public.parked_events.subscription": marker,
    "last_transaction_id": lambda t: "1",
    "enclave.attestation_policies.version": lambda t: t.int % 1_000_000 + 1,
    "enclave.attestation_policies.tcb_statuses": lambda t: ["UpToDate"],
    "enclave.attestation_policies.enclaves": lambda t: Jsonb([]),
    "max_collateral_age": lambda t: timedelta(days=1),
    "max_lifetime": lambda t: timedelta(days=1),
    "enclave.attestations.quote": lambda t: quote(t),
    "enclave.attestations.signed_digest": lambda t: hashlib.sha256(quote(t)).hexdigest(),
    "enclave.attestations.signed_size": lambda t: 432,
    "enclave.attestations.quote_version": lambda t: 3,
    "enclave.attestations.tee": lambda t: "SGX",
    "enclave.attestations.mr_enclave": lambda t: "00" * 32,
    "enclave.attestations.mr_signer": lambda t: "00" * 32,
    "enclave.attestations.isv_prod_id": lambda t: 0,
    "enclave.attestations.isv_svn": lambda t: 0,
    "enclave.attestations.report_data": lambda t: "00" * 64,
    "enclave.attestations.policy_version": lambda t: t.int % 1_000_000 + 1,
    "enclave.attestations.nonce": lambda t: bytes.fromhex(digest(t, "nonce")),
    "collateral_id": lambda t: None,
    "enclave.nonces.nonce": lambda t: bytes.fromhex(digest(t, "nonce")),
    "enclave.verifications.quote_digest": lambda t: digest(t, "quote"),
    "enclave.verifications.occasion": lambda t: "submitted",
    "enclave.verifications.status": lambda t: "rejected",
}
# What a key is computed from, and must be copied with it.
TOGETHER = {"enclave.attestations.signed_digest": ("quote",)}


def quote(tenant: UUID) -> bytes:
    """What is signed of an SGX quote, with the tenant where the processor's version stands."""
    return (b"\3" + bytes(47) + tenant.bytes).ljust(432, b"\0")


def identifier(tenant: UUID, table: str, column: str) -> UUID:
    """The id that a table's one row of a tenant has."""
    return uuid5(tenant, f"{table}.{column}")


def row(table: Table, tenant: UUID, *, own: UUID | None = None) -> dict[str, Any]:
    """The row of a tenant in a table, by column; with another `own`, another row like it."""
    root = _root(table.name)
    return {
        column.name: _value(table, root, column, tenant, own or tenant)
        for column in table.columns
        if _is_filled(table, root, column)
    }


def _root(name: str) -> str:
    """A partition has the rows of its parent."""
    return name.rsplit("_p", 1)[0] if name.rsplit("_p", 1)[-1].isdigit() else name


def _is_filled(table: Table, root: str, column: Column) -> bool:
    if column.generated:
        return False
    referring = any(column.name in key.columns for key in table.foreign_keys)
    wanted = column.required or referring or column.name in (*table.primary_key, table.tenant)
    return wanted or column.name in VALUES or f"{root}.{column.name}" in VALUES


def _value(table: Table, root: str, column: Column, tenant: UUID, own: UUID) -> Any:
    if column.name in (table.tenant, "role_scope_id"):
        return own if table.name == "core.tenants" else tenant
    for key in table.foreign_keys:
        if column.name in key.columns and len(key.columns) > 1:
            there = key.target_columns[key.columns.index(column.name)]
            if there == "tenant_id":
                return tenant
            given = VALUES.get(f"{root}.{column.name}")
            return given(own) if given else identifier(tenant, key.target, there)
    if given := VALUES.get(f"{root}.{column.name}") or VALUES.get(column.name):
        return given(own)
    return _of_type(column, own, root)


def _of_type(column: Column, tenant: UUID, root: str) -> Any:
    about = f"{root}.{column.name}"
    match column.type:
        case "uuid":
            return identifier(tenant, root, column.name)
        case "jsonb":
            return Jsonb({"mark": marker(tenant)})
        case "bytea":
            return bytes.fromhex(digest(tenant, about))
        case "timestamp with time zone":
            return NOW
        case "boolean":
            return False
        case "smallint" | "integer" | "bigint" | "numeric":
            return 1
        case "inet":
            return "192.0.2.1"
        case _ if "hash" in column.name or column.name.startswith("mr_") or column.name == "mac":
            return digest(tenant, about)
        case _:
            return marker(tenant)


def plant_public(admin: Session) -> None:
    """What tenants' rows refer to and no tenant owns."""
    admin.execute(
        "INSERT INTO blockchain.networks (id, name, chain_id, network_type)"
        " VALUES (%s, 'attacked', 4242, 'evm')",
        (NETWORK,),
    )
    admin.execute(
        "INSERT INTO auth.permissions (id, name, resource, action)"
        " VALUES (%s, 'attack:try', 'attack', 'try')",
        (PLATFORM_PERMISSION,),
    )


def plant(
    admin: Session, tables: list[Table], tenants: list[UUID]
) -> dict[str, dict[UUID, dict[str, Any]]]:
    """Put one row of each tenant into every table that is no partition; the rows, by table."""
    planted: dict[str, dict[UUID, dict[str, Any]]] = {}
    with admin.transaction():
        admin.execute("SET LOCAL session_replication_role = replica")
        for table in tables:
            if table.is_partition:
                continue
            planted[table.name] = {tenant: row(table, tenant) for tenant in tenants}
            for values in planted[table.name].values():
                insert(admin, table, values)
    return planted


def insert(session: Session, table: Table, values: dict[str, Any], *, tail: str = "") -> int:
    """Insert one row, also with numbers that the server would give; the number of rows stored."""
    statement = sql.SQL("INSERT INTO {} ({}) OVERRIDING SYSTEM VALUE VALUES ({}) {}").format(
        sql.Identifier(*table.name.split(".")),
        sql.SQL(", ").join(map(sql.Identifier, values)),
        sql.SQL(", ").join(sql.Placeholder() * len(values)),
        sql.SQL(tail),
    )
    return session.execute(statement, list(values.values())).rowcount
