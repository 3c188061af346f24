"""Sealed data: versioned blobs, each stored over the one its writer has seen."""

from __future__ import annotations

import asyncio
from dataclasses import asdict

import psycopg
import pytest
from tests.fixtures import quotes
from tests.fixtures.fix_enclave import Attesting, EnclaveTenant
from tests.fixtures.owners import new_owner
from tests.fixtures.quotes import SGX, THEN, quote

from neolayer.enclave import (
    Opening,
    SealedDataNotFound,
    SealedDataStore,
    Sealing,
    SealingPolicy,
    Upgrade,
    VersionConflict,
)
from neolayer.errors import InvalidInput
from neolayer.tenancy import Scope

MAC = "ab" * 16
BY_BUILD = SealingPolicy(Sealing.MRENCLAVE, mr_enclave=quotes.SGX_ENCLAVE)
BY_SIGNER = SealingPolicy(
    Sealing.MRSIGNER, mr_signer=quotes.SGX_SIGNER, isv_prod_id=0, isv_svn=0, cpu_svn="00" * 16
)


async def with_user(scope: Scope) -> SealedDataStore:
    """The sealed data of a tenant's user."""
    return SealedDataStore(await new_owner(scope))


@pytest.fixture
async def store(enclave_tenant: EnclaveTenant) -> SealedDataStore:
    return await with_user(await enclave_tenant())


async def put(
    store: SealedDataStore,
    key: str,
    expected: int,
    *,
    sealed: bytes = b"opaque",
    sealing: SealingPolicy = BY_BUILD,
) -> int:
    return await store.put(
        key, sealed, mac=MAC, enclave_id="vault", sealing=sealing, expected_version=expected
    )


async def test_a_blob_comes_back_as_it_was_put(store: SealedDataStore) -> None:
    """The bytes, and what was said of them; a list tells all but the bytes."""
    assert await put(store, "key", 0, sealed=b"\0\xff", sealing=BY_SIGNER) == 1
    assert (await store.get("key")).sealed == b"\0\xff"
    found = await store.describe("key")
    assert (found.version, found.size, found.sealing) == (1, 2, BY_SIGNER)
    assert found.owner_id == store.scope.by.user_id
    assert await store.list() == [found]


async def test_a_version_is_stored_over_the_one_that_was_seen(store: SealedDataStore) -> None:
    """Else a conflict, which says what is there, and nothing is stored."""
    assert await put(store, "key", 0) == 1
    assert await put(store, "key", 1, sealed=b"two", sealing=BY_SIGNER) == 2
    for stale in (0, 1, 3):
        with pytest.raises(VersionConflict, match="version 2"):
            await put(store, "key", stale, sealed=b"lost")
    assert (await store.get("key")).sealed == b"two"
    with pytest.raises(SealedDataNotFound):
        await put(store, "other", 1)


async def test_of_many_writers_one_wins_each_version(store: SealedDataStore) -> None:
    """Twenty at once over the same version: one stored, nineteen told."""
    await put(store, "key", 0)
    puts = [put(store, "key", 1, sealed=bytes([n])) for n in range(20)]
    outcomes = await asyncio.gather(*puts, return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == ["VersionConflict"] * 19 + ["int"]
    (winner,) = (n for n, outcome in enumerate(outcomes) if outcome == 2)
    assert (await store.get("key")).sealed == bytes([winner])


async def test_a_delete_names_its_version(store: SealedDataStore) -> None:
    """Nobody deletes what he has not seen."""
    await put(store, "key", 0)
    await put(store, "key", 1)
    with pytest.raises(VersionConflict):
        await store.delete("key", expected_version=1)
    await store.delete("key", expected_version=2)
    with pytest.raises(SealedDataNotFound):
        await store.get("key")


async def test_may_this_attested_enclave_open_it(attesting: Attesting) -> None:
    """A real quote's enclave, against what was said at sealing."""
    attestations = await attesting()
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    store = await with_user(attestations.scope)
    await put(store, "build", 0)
    await put(store, "signer", 0, sealing=BY_SIGNER)
    await put(store, "next", 0, sealing=SealingPolicy(**(asdict(BY_SIGNER) | {"isv_svn": 1})))
    answers = {
        key: await store.may_open(outcome.attestation_id, key, at=THEN)
        for key in ("build", "signer", "next")
    }
    assert answers["build"].is_yes and answers["signer"].is_yes
    assert answers["next"].opening is Opening.SVN_TOO_LOW
    assert outcome.expires_at
    late = await store.may_open(outcome.attestation_id, "build", at=outcome.expires_at)
    assert late.opening is Opening.NOT_ATTESTED


async def test_what_an_upgrade_strands_is_listed_before(store: SealedDataStore) -> None:
    """By SQL and by rule alike, each with its reason, page by page."""
    sealings = {
        "a-old-build": BY_BUILD,
        "b-new-build": SealingPolicy(Sealing.MRENCLAVE, mr_enclave="00" * 32),
        "c-signer": BY_SIGNER,
        "d-higher": SealingPolicy(**(asdict(BY_SIGNER) | {"isv_svn": 6})),
        "e-product": SealingPolicy(**(asdict(BY_SIGNER) | {"isv_prod_id": 1})),
        "f-other": SealingPolicy(**(asdict(BY_SIGNER) | {"mr_signer": "00" * 32})),
        "g-user": SealingPolicy(Sealing.USER_DEFINED),
        "h-debug": SealingPolicy(**(asdict(BY_SIGNER) | {"is_debug": True})),
    }
    for key, sealing in sealings.items():
        await put(store, key, 0, sealing=sealing)
    upgrade = Upgrade("vault", "00" * 32, quotes.SGX_SIGNER, 0, 5)
    first = await store.stranded_by(upgrade, limit=4)
    rest = await store.stranded_by(upgrade, limit=4, after=first[-1][0].data_key)
    stranded = {one.data_key: why for one, why in (*first, *rest)}
    assert stranded == {
        "a-old-build": Opening.OTHER_BUILD,
        "d-higher": Opening.SVN_TOO_LOW,
        "e-product": Opening.OTHER_PRODUCT,
        "f-other": Opening.OTHER_SIGNER,
        "g-user": Opening.ONLY_THE_ENCLAVE_KNOWS,
        "h-debug": Opening.DEBUG_DIFFERS,
    }
    assert stranded == {
        key: why
        for key, sealing in sealings.items()
        if (why := upgrade.why_stranded(sealing)) is not Opening.MAY_OPEN
    }


@pytest.mark.parametrize(
    "assignment",
    [
        "sealed_blob = 'x'",
        "sealed_blob = 'x', version = version + 2",
        "sealed_blob = 'x', version = version - 1",
        "policy = 'MRSIGNER', version = version + 1",
        "mr_signer = mr_enclave, version = version + 1",
        "mac = 'zz', version = version + 1",
    ],
)
async def test_the_database_keeps_versions_and_policies(
    store: SealedDataStore, assignment: str
) -> None:
    """Raw SQL can neither skip a version nor say of a blob what cannot be."""
    await put(store, "key", 0)
    await put(store, "key", 1)
    with pytest.raises(psycopg.errors.CheckViolation):
        await store.scope.one(f"UPDATE enclave.sealed_data SET {assignment} RETURNING 1")  # type: ignore[arg-type]


async def test_E1_sealed_data_is_the_tenants_own(enclave_tenant: EnclaveTenant) -> None:
    """Errata 14: two tenants may use one name, and neither learns of the other's."""
    ann, bob = await with_user(await enclave_tenant()), await with_user(await enclave_tenant())
    await put(ann, "key", 0, sealed=b"ann")
    for call in (bob.get("key"), bob.describe("key"), bob.delete("key", expected_version=1)):
        with pytest.raises(SealedDataNotFound):
            await call
    assert await put(bob, "key", 0, sealed=b"bob") == 1
    assert (await ann.get("key")).sealed == b"ann"
    with pytest.raises(InvalidInput):
        await bob.put(
            "other",
            b"x",
            mac=MAC,
            enclave_id="vault",
            sealing=BY_BUILD,
            expected_version=0,
            owner_id=ann.scope.by.user_id,
        )


async def test_D_what_is_put_is_checked(store: SealedDataStore) -> None:
    """Empty and huge blobs, wrong codes, names that are none."""
    for key, sealed, mac in (
        ("key", b"", MAC),
        ("key", bytes(16 * 2**20 + 1), MAC),
        ("key", b"x", "ab"),
        ("key", b"x", MAC.upper()),
        ("", b"x", MAC),
        ("a\0b", b"x", MAC),
        ("x" * 256, b"x", MAC),
    ):
        with pytest.raises(InvalidInput):
            await store.put(
                key, sealed, mac=mac, enclave_id="vault", sealing=BY_BUILD, expected_version=0
            )


async def test_E12_the_audit_names_versions_and_no_bytes(store: SealedDataStore) -> None:
    """Put, replaced, deleted: who and which, never what."""
    await put(store, "key", 0, sealed=b"canary-of-sealed")
    await put(store, "key", 1, sealed=b"canary-of-sealed")
    await store.delete("key", expected_version=2)
    found = await store.scope.fetch(
        "SELECT action, resource_id, changes::text FROM audit.entries"
        " WHERE resource = 'sealed_data' ORDER BY occurred_at"
    )
    assert [(row[0], row[1]) for row in found] == [
        ("CREATE", "key"),
        ("UPDATE", "key"),
        ("DELETE", "key"),
    ]
    assert "canary" not in str(found)
