"""Keys locked by AWS KMS and by Vault, against a mock of both: rotation, outages, bounds, refusals.

The mock (tests/fixtures/fix_key_service.py) checks signatures and tokens; neither service is here.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.fixtures.fix_key_service import (
    MasterKeys,
    PlayedKeyService,
    kms_error,
    playing,
    vault_error,
)
from tests.fixtures.guarded_keys import KINDS, Clock, MemoryStore, guarded_by, master_of

from neolayer.errors import SettingsError
from neolayer.keys import Keyring, KeysUnavailable, MissingKey, WrongKey, key_id_of
from neolayer.keys.providers.guarded import CURRENT_SECONDS, Bounds, GuardedKeys
from neolayer.keys.providers.http import ATTEMPTS
from neolayer.keys.providers.vault_transit import open_vault_transit

ROW = {"tenant": "a", "user": "b"}
_KEY = base64.b64encode(bytes(32)).decode()
SENSIBLE = {
    "data": {"plaintext": _KEY, "ciphertext": "x"},
    **{"Plaintext": _KEY, "CiphertextBlob": "x", "KeyId": "y"},
}
kinds = pytest.mark.parametrize("kind", KINDS)


def refusing(error: Exception) -> Callable[[], None]:
    def refuse() -> None:
        raise error

    return refuse


def hang_up() -> None:
    raise ConnectionAbortedError


@kinds
async def test_a_busy_layer_asks_the_service_once(key_service: PlayedKeyService, kind: str) -> None:
    """Five hundred secrets sealed and opened cost two calls: make the key, unlock it."""
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        keyring = Keyring(keys)
        sealed = await asyncio.gather(*(keyring.seal(b"%d" % i, bound_to=ROW) for i in range(500)))
        opened = await asyncio.gather(*(keyring.open(text, bound_to=ROW) for text in sealed))
    assert opened == [b"%d" % i for i in range(500)]
    assert all(len(text) <= 255 for text in sealed)
    assert key_service.calls.total() == 2


@kinds
async def test_an_unlocked_key_is_used_no_longer_than_said(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Access that is taken away at the service ends with the time bound, not before."""
    clock = Clock()
    bounds = Bounds(most_seconds=60)
    async with guarded_by(key_service, kind, MemoryStore(), clock=clock, bounds=bounds) as keys:
        keyring = Keyring(keys)
        sealed = await keyring.seal(b"x", bound_to=ROW)
        key_service.always = refusing(
            kms_error("AccessDeniedException")
            if kind == "aws-kms"
            else vault_error("permission denied", 403)
        )
        clock.now = 59.9
        assert await keyring.open(sealed, bound_to=ROW) == b"x"
        clock.now = 60.0
        with pytest.raises(KeysUnavailable, match="refuses"):
            await keyring.open(sealed, bound_to=ROW)
        key_service.always = None
        assert await keyring.open(sealed, bound_to=ROW) == b"x"


@kinds
async def test_no_more_keys_are_kept_than_said(key_service: PlayedKeyService, kind: str) -> None:
    """The one unused for longest is forgotten first."""
    bounds = Bounds(most_keys=2)
    clock = Clock()
    async with guarded_by(key_service, kind, MemoryStore(), bounds=bounds, clock=clock) as keys:
        keyring = Keyring(keys)
        sealed: list[str] = []
        for _ in range(3):
            sealed.append(await keyring.seal(b"x", bound_to=ROW))
            await keys.rotate()
        before = key_service.calls.total()
        for text in (sealed[2], sealed[1]):
            await keyring.open(text, bound_to=ROW)
        assert key_service.calls.total() == before
        await keyring.open(sealed[0], bound_to=ROW)
        await keyring.open(sealed[1], bound_to=ROW)
        assert key_service.calls.total() == before + 1
        await keyring.open(sealed[2], bound_to=ROW)
        assert key_service.calls.total() == before + 2


@kinds
async def test_a_rotation_elsewhere_is_seen_and_old_texts_open(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Another process makes a version; this one seals with it within CURRENT_SECONDS."""
    store, clock = MemoryStore(), Clock()
    async with (
        guarded_by(key_service, kind, store, clock=clock) as ours,
        guarded_by(key_service, kind, store) as theirs,
    ):
        keyring = Keyring(ours)
        old = await keyring.seal(b"x", bound_to=ROW)
        assert (await theirs.rotate()).version == 2
        newest = await Keyring(theirs).seal(b"y", bound_to=ROW)
        assert await keyring.open(newest, bound_to=ROW) == b"y"
        clock.now = CURRENT_SECONDS
        new = await keyring.rewrap(old, bound_to=ROW)
        assert key_id_of(new) == "layer-1/2"
        assert old.split(".")[4:] == new.split(".")[4:]
        assert await keyring.open(old, bound_to=ROW) == b"x"


@kinds
async def test_relocking_frees_from_old_versions_of_the_master_key(
    key_service: PlayedKeyService, kind: str
) -> None:
    """After the master key's rotation and `relock`, its old version may be destroyed."""
    store = MemoryStore()
    async with guarded_by(key_service, kind, store) as keys:
        sealed = await Keyring(keys).seal(b"x", bound_to=ROW)
        master = key_service.masters["neolayer"]
        master.rotate()
        assert await keys.relock() == 1
    master.versions[0] = bytes(32)
    master.oldest_allowed = 2
    async with guarded_by(key_service, kind, store) as keys:
        assert await Keyring(keys).open(sealed, bound_to=ROW) == b"x"
    verb = "ReEncrypt" if kind == "aws-kms" else "/v1/transit/rewrap/neolayer"
    assert key_service.calls[verb] == 1


@kinds
async def test_relocking_moves_to_another_master_key(
    key_service: PlayedKeyService, kind: str
) -> None:
    """With another key in the settings, the earlier one still unlocks until `relock` has run."""
    store = MemoryStore()
    async with guarded_by(key_service, kind, store) as keys:
        sealed = await Keyring(keys).seal(b"x", bound_to=ROW)
    key_service.masters["second"] = MasterKeys()
    async with guarded_by(key_service, kind, store, key="second") as keys:
        assert await Keyring(keys).open(sealed, bound_to=ROW) == b"x"
        await keys.relock()
    del key_service.masters["neolayer"]
    async with guarded_by(key_service, kind, store, key="second") as keys:
        assert await Keyring(keys).open(sealed, bound_to=ROW) == b"x"


async def test_relocking_moves_from_one_service_to_another(
    key_service: PlayedKeyService,
) -> None:
    """Vault to KMS: both are open while keys move; afterwards Vault is no longer asked."""
    store = MemoryStore()
    async with (
        master_of(key_service, "vault-transit") as vault,
        master_of(key_service, "aws-kms") as kms,
    ):
        old = GuardedKeys({"vault-transit": vault}, "vault-transit", store)
        sealed = await Keyring(old).seal(b"x", bound_to=ROW)
        alone = GuardedKeys({"aws-kms": kms}, "aws-kms", store)
        with pytest.raises(MissingKey, match="vault-transit:transit/neolayer") as missing:
            await Keyring(alone).open(sealed, bound_to=ROW)
        assert "NEOLAYER_KEYS__EARLIER=vault-transit" in (missing.value.hint or "")
        both = GuardedKeys({"aws-kms": kms, "vault-transit": vault}, "aws-kms", store)
        assert await Keyring(both).open(sealed, bound_to=ROW) == b"x"
        await both.relock()
        alone = GuardedKeys({"aws-kms": kms}, "aws-kms", store)
        assert await Keyring(alone).open(sealed, bound_to=ROW) == b"x"


async def test_E16_a_version_that_vault_no_longer_decrypts_says_the_way_out(
    key_service: PlayedKeyService,
) -> None:
    """min_decryption_version was raised before `rewrap`."""
    store = MemoryStore()
    async with guarded_by(key_service, "vault-transit", store) as keys:
        sealed = await Keyring(keys).seal(b"x", bound_to=ROW)
    key_service.masters["neolayer"].oldest_allowed = 2
    async with guarded_by(key_service, "vault-transit", store) as keys:
        with pytest.raises(KeysUnavailable) as refused:
            await Keyring(keys).open(sealed, bound_to=ROW)
    assert "min_decryption_version" in (refused.value.hint or "")


@kinds
async def test_E16_a_master_key_that_was_replaced_is_a_wrong_key(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Same name, other key: the error names ours, and nothing is sealed in its place."""
    store = MemoryStore()
    async with guarded_by(key_service, kind, store) as keys:
        sealed = await Keyring(keys).seal(b"x", bound_to=ROW)
    key_service.masters["neolayer"] = MasterKeys()
    async with guarded_by(key_service, kind, store) as keys:
        with pytest.raises(WrongKey, match=key_id_of(sealed)):
            await Keyring(keys).open(sealed, bound_to=ROW)
        with pytest.raises(WrongKey):
            await Keyring(keys).seal(b"y", bound_to=ROW)
        with pytest.raises(WrongKey):
            await keys.relock()


@kinds
async def test_E16_locked_keys_that_changed_places_do_not_unlock(
    key_service: PlayedKeyService, kind: str
) -> None:
    """The context names the key, so an old key cannot be put back as the current one."""
    store = MemoryStore()
    async with guarded_by(key_service, kind, store) as keys:
        await keys.current()
        await keys.rotate()
    first, second = await store.names()
    store.keys[second] = store.keys[first]
    async with guarded_by(key_service, kind, store) as keys:
        with pytest.raises(WrongKey, match=str(second)):
            await Keyring(keys).seal(b"x", bound_to=ROW)


@kinds
@pytest.mark.parametrize("misdeed", ["dies", "busy", "throttles"])
async def test_a_service_that_fails_for_a_moment_is_asked_again(
    key_service: PlayedKeyService, kind: str, misdeed: str
) -> None:
    """Twice is borne, and the third answer counts."""
    throttled = kms_error("ThrottlingException") if kind == "aws-kms" else vault_error("", 429)
    fault = {
        "dies": hang_up,
        "busy": refusing(kms_error("KMSInternalException", 503)),
        "throttles": refusing(throttled),
    }[misdeed]
    key_service.faults.extend([fault] * (ATTEMPTS - 1))
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        await keys.health()
    assert key_service.calls.total() == ATTEMPTS - 1 + 2


@kinds
async def test_a_service_that_stays_away_is_one_sentence_in_bounded_time(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Three tries in all, then an error that names the address and quotes nobody."""
    key_service.always = hang_up
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        with pytest.raises(KeysUnavailable, match=key_service.url) as away:
            await keys.health()
    assert key_service.calls.total() == ATTEMPTS
    assert away.value.__cause__ is None


@kinds
async def test_an_outage_is_told_to_all_who_wait_at_once(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Waiting one after the other, the last of 200 would learn it after minutes."""
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        keyring = Keyring(keys)
        key_service.always = hang_up
        asked = (keyring.seal(b"x", bound_to=ROW) for _ in range(200))
        answers = await asyncio.gather(*asked, return_exceptions=True)
    assert {type(answer) for answer in answers} == {KeysUnavailable}
    assert key_service.calls.total() == ATTEMPTS


@kinds
async def test_nobody_at_the_address_is_one_sentence(kind: str) -> None:
    """The service was shut down."""
    with playing(PlayedKeyService()) as service:
        pass
    async with guarded_by(service, kind, MemoryStore()) as keys:
        with pytest.raises(KeysUnavailable, match="cannot be reached"):
            await keys.health()


@kinds
async def test_a_service_that_never_answers_is_given_up(kind: str) -> None:
    """It takes the connection and says nothing: the time limit ends each try."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        service = PlayedKeyService(url=f"http://127.0.0.1:{silent.getsockname()[1]}")
        async with guarded_by(service, kind, MemoryStore(), timeout_s=0.05) as keys:
            with pytest.raises(KeysUnavailable, match=r"within 0\.05 s"):
                await keys.health()


@kinds
async def test_a_slow_service_is_waited_for_within_the_limit(
    key_service: PlayedKeyService, kind: str
) -> None:
    """Twenty who want one key ask once; the first of them giving up leaves the others theirs."""
    slow = threading.Event()
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        keyring = Keyring(keys)
        sealed = await keyring.seal(b"x", bound_to=ROW)
        keys._unlocked.clear()
        before = key_service.calls.total()
        key_service.always = lambda: slow.wait(4) and None
        waiting = [asyncio.create_task(keyring.open(sealed, bound_to=ROW)) for _ in range(20)]
        while key_service.calls.total() == before:
            await asyncio.sleep(0)
        waiting[0].cancel()
        slow.set()
        answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert set(answers[1:]) == {b"x"}
    assert key_service.calls.total() == before + 1


@pytest.mark.parametrize(
    ("kind", "error", "hint"),
    [
        ("aws-kms", kms_error("AccessDeniedException"), "kms:Decrypt"),
        ("aws-kms", kms_error("DisabledException"), "enable it"),
        ("aws-kms", kms_error("KMSInvalidStateException"), "cancel its deletion"),
        ("aws-kms", kms_error("NotFoundException"), "keys.kms.key"),
        ("aws-kms", kms_error("ExpiredTokenException"), "session_token"),
        ("vault-transit", vault_error("permission denied", 403), "keys.vault.token"),
        ("vault-transit", vault_error("encryption key not found"), "vault write -f"),
        ("vault-transit", vault_error("no handler", 404), "vault write -f"),
    ],
)
async def test_E16_a_refusal_says_the_way_out(
    key_service: PlayedKeyService, kind: str, error: Exception, hint: str
) -> None:
    """It is not asked again, since the answer would be the same."""
    key_service.always = refusing(error)
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        with pytest.raises(KeysUnavailable) as refused:
            await keys.health()
    assert hint in (refused.value.hint or "")
    assert key_service.calls.total() == 1


@kinds
async def test_E16_wrong_credentials_are_refused_by_the_service(
    key_service: PlayedKeyService, kind: str
) -> None:
    """The mock checks signature and token; so the tests above prove that ours are right."""
    async with guarded_by(key_service, kind, MemoryStore(), secret="wrong") as keys:
        with pytest.raises(KeysUnavailable) as refused:
            await keys.health()
    assert "wrong" not in f"{refused.value.message} {refused.value.hint}"


@kinds
@pytest.mark.parametrize(
    "body",
    [
        {},
        {"data": 1},
        {"data": {"plaintext": "AAAA", "ciphertext": "x"}},
        {"Plaintext": "AAAA", "CiphertextBlob": "x", "KeyId": "y"},
        {"Plaintext": 7, "CiphertextBlob": 7, "KeyId": 7, "data": {"plaintext": 7}},
        {**SENSIBLE, "padding": "A" * 70_000},
    ],
)
async def test_an_answer_that_makes_no_sense_is_refused(
    key_service: PlayedKeyService, kind: str, body: dict[str, Any]
) -> None:
    """A short key would be a weak one, so what comes back is looked at."""
    key_service.always = lambda: body
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        with pytest.raises(KeysUnavailable):
            await keys.health()


@kinds
async def test_an_answer_that_makes_sense_is_taken(
    key_service: PlayedKeyService, kind: str
) -> None:
    """So the answers above are refused for what is wrong with them."""
    key_service.always = lambda: SENSIBLE
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        await keys.health()


@kinds
async def test_a_redirect_is_not_followed(key_service: PlayedKeyService, kind: str) -> None:
    """It would carry token and key to wherever it points."""
    key_service.always = refusing(vault_error("moved", 307))
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        with pytest.raises(KeysUnavailable, match="307"):
            await keys.health()
    assert key_service.calls.total() == 1


@kinds
async def test_a_proxy_of_the_environment_is_not_asked(
    key_service: PlayedKeyService, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HTTP_PROXY and its like would be told the token."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", "")
    async with guarded_by(key_service, kind, MemoryStore()) as keys:
        await keys.health()


@pytest.mark.parametrize(
    "url", ["http://vault.example.com", "ftp://x", "vault", "https://ann:hunter2@vault", "https://"]
)
async def test_an_unsafe_address_is_refused(url: str) -> None:
    """Plain http is for this machine only; a password in the address is refused, not repeated."""
    with pytest.raises(SettingsError) as refused:
        async with open_vault_transit(url=url, mount="transit", key="k", token="t", timeout_s=1):
            pass
    assert "hunter2" not in str(refused.value)


@kinds
async def test_E12_no_key_and_no_token_shows_anywhere(
    key_service: PlayedKeyService,
    kind: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Logs of every library at DEBUG, errors with their chains, repr of everything; the service
    even quotes our requests in its refusals."""
    caplog.set_level(logging.DEBUG)
    key_service.echoes = True
    key_service.session_token = "canary-session-token"
    store = MemoryStore()
    shown: list[object] = []
    async with (
        guarded_by(key_service, kind, store) as keys,
        master_of(key_service, kind) as master,
    ):
        keyring = Keyring(keys)
        sealed = await keyring.seal(b"canary-plaintext", bound_to=ROW)
        key_service.masters["second"] = MasterKeys()
        for error in (kms_error("ValidationException"), vault_error("bad"), kms_error("x", 503)):
            key_service.always = refusing(error)
            with pytest.raises(KeysUnavailable) as failed:
                await keys.relock()
            with pytest.raises(KeysUnavailable) as failed_to_encrypt:
                await master.encrypt(key_service.keys_seen[0], {})
            for exc in (failed.value, failed_to_encrypt.value):
                shown += [exc, repr(exc), exc.hint, exc.__cause__, repr(exc.__context__)]
        key_service.always = None
        master_now, locked = master, await store.locked((await store.names())[0])
        shown += [keys, keyring, master_now, locked, repr(keys._unlocked), store.keys]
        with pytest.raises(Exception, match="does not belong") as moved:
            await keyring.open(sealed, bound_to={"tenant": "other"})
        shown += [moved.value, repr(moved.value.__context__)]
    text = " ".join(map(repr, shown)) + " ".join(map(str, shown)) + caplog.text
    text += "".join(capsys.readouterr())
    secrets = [key_service.token, key_service.secret_access_key, "canary"]
    for key in key_service.keys_seen:
        secrets += [key.hex(), repr(key)[2:-1], base64.b64encode(key).decode()]
    assert key_service.keys_seen
    assert [secret for secret in secrets if secret in text] == []
