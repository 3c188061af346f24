"""Sealing and opening secrets in memory, and moving sealed rows under a new key."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID, uuid4

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

from bench.claims import BY_HAND
from bench.harness import Figure, Plan, alone, compare, rounds
from bench.schema import endpoints_of
from bench.server import open_folder, postgres
from neolayer.engines.endpoints import Database, Endpoints, Role
from neolayer.engines.postgres.connections import connect
from neolayer.identity.catalogue import CLASSES
from neolayer.identity.totp import seed_binding
from neolayer.keys import Keyring, key_id_of
from neolayer.keys.providers.file import FileKeys
from neolayer.keys.rewrapping import rewrap
from neolayer.keys.sealed_rows import key_usage, sealed_columns
from neolayer.schema.lines import Line
from neolayer.schema.runner import migrate_up
from neolayer.tenancy import CoreDatabase, Principal, Tenants, open_core

_SECRETS = 2_000
_ROWS = 5_000
_COLUMNS = ("tenant_id", "id", "email", "username", "password_hash", "mfa_secret", "mfa_key_id")
_TYPES = ("uuid", "uuid", *["varchar"] * 5)


def figures(plan: Plan) -> Iterator[Figure]:
    count = plan.pick(5, 15)
    with open_folder() as folder:
        keyring = Keyring(FileKeys(folder / "keys"))
        contenders = {"ours": lambda: asyncio.run(_sealed(keyring)), BY_HAND: _by_hand}
        yield compare("keys-seal-and-open", rounds(contenders, count), "ours", BY_HAND)
        yield alone("keys-rewrap", asyncio.run(_rewrapped(folder, keyring, plan.pick(3, 10))))


async def _sealed(keyring: Keyring) -> float:
    """Secrets sealed and opened a second."""
    started = time.perf_counter()
    for number in range(_SECRETS):
        bound_to = {"tenant": "t", "user": str(number)}
        sealed = await keyring.seal(b"0123456789abcdef", bound_to=bound_to)
        await keyring.open(sealed, bound_to=bound_to)
    return _SECRETS / (time.perf_counter() - started)


def _by_hand() -> float:
    """The same calls of the library without names, text, binding's spelling, or a file."""
    key = secrets.token_bytes(32)
    started = time.perf_counter()
    for number in range(_SECRETS):
        data_key, nonce, row = secrets.token_bytes(32), secrets.token_bytes(12), b"%d" % number
        wrapped = aes_key_wrap(key, data_key)
        sealed = AESGCM(data_key).encrypt(nonce, b"0123456789abcdef", row)
        AESGCM(aes_key_unwrap(key, wrapped)).decrypt(nonce, sealed, row)
    return _SECRETS / (time.perf_counter() - started)


async def _rewrapped(folder: Path, keyring: Keyring, count: int) -> list[float]:
    """Rows a second of each rotation: read, re-wrapped, written, with their audit entries."""
    with postgres(folder) as endpoint:
        endpoints = endpoints_of(endpoint)
        await migrate_up(endpoints, lines=[Line.CORE])
        async with open_core(endpoints, application_name="bench") as core:
            await _settle(core, keyring)
            return [await _rotated(core, endpoints, keyring) for _ in range(count)]


async def _settle(core: CoreDatabase, keyring: Keyring) -> None:
    by = Principal.operator("bench")
    platform = Tenants(core.platform(by=by))
    tenant = await platform.create(name="bench", identifier="bench", tier="enterprise")
    rows: list[tuple[object, ...]] = []
    for _ in range(_ROWS):
        user = uuid4()
        sealed = await keyring.seal(secrets.token_bytes(20), bound_to=seed_binding(tenant.id, user))
        name = str(user)
        rows.append((tenant.id, user, f"{name}@x", name, "x", sealed, key_id_of(sealed)))
    async with core.scope(tenant.id, by=by).transaction() as tx:
        await tx.copy_in("auth.users", _COLUMNS, _TYPES, rows)


async def _rotated(core: CoreDatabase, endpoints: Endpoints, keyring: Keyring) -> float:
    await keyring.provider.rotate()
    started = time.perf_counter()
    dsn = endpoints.cluster(Database.CORE).dsn(Role.OPERATOR, Database.CORE)
    async with await connect(dsn, autocommit=True, application_name="bench") as operator:
        usage = await key_usage(operator, sealed_columns(CLASSES))

    def scope_of(tenant: UUID):
        return core.scope(tenant, by=Principal.operator("bench"))

    done = await rewrap(keyring, usage, scope_of=scope_of)
    assert done.rows == _ROWS
    return done.rows / (time.perf_counter() - started)
