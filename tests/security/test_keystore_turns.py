"""D: one tenant's keystores hold up no other's, over the real server."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any

import httpx
import psycopg
import pytest

from neolayer.engines.endpoints import Role
from neolayer.wallets import derivations, keystores
from tests.fixtures.fix_served_api import Served
from tests.fixtures.patience import PATIENCE_S
from tests.unit.test_wallets_keystores import keystore_of


def owner_of(served: Served) -> dict[str, str]:
    acme = served.tenant()
    token = served.token(acme, served.person(acme, "ann", "owner"))
    return {"authorization": f"Bearer {token}"}


def sent(served: Served, headers: dict[str, str], body: bytes) -> socket.socket:
    """A request that is sent whole, and whose answer nobody has read."""
    one = socket.create_connection(("127.0.0.1", served.port), timeout=30)
    head = "POST /v1/wallets/keystores HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
    head += f"Authorization: {headers['authorization']}\r\nContent-Length: {len(body)}\r\n\r\n"
    one.sendall(head.encode() + body)
    return one


class Gate:
    """Derivations of another password than ours begin, and end only when told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.open = 0, threading.Event()
        decrypt = keystores._decrypt

        def gated(document: dict[str, Any], password: bytes) -> Any:
            if password == b"theirs":
                self.begun += 1
                assert self.open.wait(60)
            return decrypt(document, password)

        monkeypatch.setattr(keystores, "_decrypt", gated)


def waiting() -> int:
    shared = derivations._shared
    return sum(map(len, shared._waiting.values())) + shared._running.total()


def until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.05)
    pytest.fail("it does not come to that")


def test_D_a_flood_of_keystores_holds_up_its_own_tenant_only(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 34 at once from one tenant those beyond its share are 429; when they leave, what had not
    begun never does; another tenant's single one is next as soon as a place is free."""
    with psycopg.connect(served.endpoints.postgres.dsn(Role.INGEST)) as ingest:
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', 1, 'evm') ON CONFLICT DO NOTHING"
        )
    acme, globex = owner_of(served), owner_of(served)
    keystore = json.dumps(keystore_of(b"\x01" * 32, "ours"))
    asked = {"network": "ethereum", "keystore": keystore}
    gate = Gate(monkeypatch)
    body = json.dumps(asked | {"password": "theirs"}).encode()
    most = derivations.MOST_OF_A_TENANT
    flood = [sent(served, globex, body) for _ in range(34)]
    try:
        until(lambda: gate.begun == derivations.AT_ONCE and waiting() == most)
        url = f"{served.url}/v1/wallets/keystores"
        mine = asked | {"password": "theirs"}
        assert httpx.post(url, json=mine, headers=globex).status_code == 429
        ours = sent(served, acme, json.dumps(asked | {"password": "ours"}).encode())
        until(lambda: waiting() == most + 1)
        for one in flood:
            one.close()
        until(lambda: waiting() == derivations.AT_ONCE + 1)
        gate.open.set()
        with ours:
            assert ours.recv(4096).startswith(b"HTTP/1.1 201")
        until(lambda: waiting() == 0)
        assert gate.begun == derivations.AT_ONCE
    finally:
        gate.open.set()
        for one in flood:
            one.close()
