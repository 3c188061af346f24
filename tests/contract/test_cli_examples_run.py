"""The examples in the help of what decides who may see and do what, typed one after another.

That each can be parsed says `tests/unit/test_cli_examples.py`; here they do what they say, in the
order in which a tenant lives. Ids in an example stand for whichever there is.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import time
from uuid import UUID

import psycopg
import pytest
from pyotp import TOTP
from tests.fixtures.commands import every_command
from tests.fixtures.quotes import SGX, SGX_SIGNER, collateral, quote
from tests.unit.test_cli_examples import examples
from tests.unit.test_wallets_keystores import keystore_of

from neolayer.audit.sealer import Sealer
from neolayer.chain.networks import PRESETS
from neolayer.cli import main
from neolayer.enclave import Computations, SealedDataStore, Sealing, SealingPolicy
from neolayer.engines.endpoints import Endpoints, ObjectsEndpoint, Role
from neolayer.engines.engine import Level
from neolayer.tenancy import Principal, open_core

GROUPS = (
    *("tenants", "users", "roles", "services", "sessions", "keys", "wallets", "webhooks"),
    *("attestations", "sealed", "computations", "audit"),
)
LONG = "x" * 150_000
PASSWORD = "quiet lamp orbits seven"
ADDRESS = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"
VARIABLES = {
    "BUILD": "ab" * 32,
    "SIGNER": SGX_SIGNER,
    "PUBLIC_KEY": "0279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
}
FIRST = (
    *("tenants create", "tenants limits", "users create", "users list", "users show"),
    *("users mfa begin", "users mfa confirm", "users mfa show", "users mfa remove"),
    *("roles create", "roles update", "roles grant", "roles explain", "roles revoke"),
    *("services create", "services key", "services revoke-key", "webhooks create"),
    *("wallets import", "wallets watch", "wallets hardware", "wallets create"),
    *("attestations collateral", "attestations policy", "attestations verify"),
)
LAST = (
    *(
        "users email",
        "users rename",
        "users delete",
        "wallets delete",
        "webhooks delete",
        "roles delete",
    ),
    *("tenants delete", "tenants restore"),
)
# What a command reads from its terminal.
TYPED = {
    "users create": PASSWORD,
    "users password": f"{PASSWORD} again",
    "wallets import": PASSWORD,
    "wallets export": PASSWORD,
}
# Where the answer is no, and rightly.
REFUSED = {
    "attestations verify": "the sample's collateral ran out years ago",
    "sealed may-open": "so the attestation is none",
    "sealed stranded": "something would be",
    "wallets delete": "a key would be gone: --destroy-key is to be said",
}


def ordered() -> list[tuple[str, str]]:
    """Each example's command and line, in an order in which what it needs is there."""
    found: list[tuple[str, str]] = []
    for command in every_command():
        if command.words[0] in GROUPS:
            found += [(" ".join(command.words), line) for line in examples(command)]

    def place(item: tuple[str, str]) -> tuple[int, int]:
        name = item[0]
        for number, start in enumerate(FIRST):
            if name.startswith(start):
                return 0, number
        return (2, LAST.index(name)) if name in LAST else (1, GROUPS.index(name.split()[0]))

    return sorted(found, key=place)


@dataclass
class Desk:
    """Somebody at a terminal, in a folder with what the examples read."""

    layer: Endpoints
    folder: Path
    show: Callable[[], tuple[str, str]]
    typed: dict[str, str] = field(default_factory=lambda: dict(TYPED))

    def row(self, query: str) -> str:
        with psycopg.connect(self.layer.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
            row = admin.execute(query).fetchone()  # type: ignore[arg-type]
        assert row is not None, query
        return str(row[0])

    def run(self, command: str, line: str, monkeypatch: pytest.MonkeyPatch) -> tuple[int, str, str]:
        text = f"{self.typed.get(command, '')}\n".encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        line, _, into = line.partition(" > ")
        with pytest.raises(SystemExit) as stopped:
            main([*shlex.split(self._with_ids(line)), "--data-dir", str(self.folder / "layer")])
        out, err = self.show()
        if into:
            (self.folder / into).write_text(out)
        return int(stopped.value.code or 0), out, err

    def _with_ids(self, line: str) -> str:
        for name, value in VARIABLES.items():
            line = line.replace(f"${name}", value)
        if (found := re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", line)) is None:
            return line
        table = {
            "wallets": "blockchain.wallets WHERE encrypted_private_key IS NOT NULL",
            "attestations": "enclave.attestations",
            "sealed": "enclave.attestations",
            "computations": "enclave.computations",
            "services": "auth.api_keys",
        }[line.split()[0]]
        return line.replace(found[0], self.row(f"SELECT id FROM {table} LIMIT 1"))


@pytest.fixture
def desk(
    layer_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Desk:
    objects = tmp_path / "objects"
    objects.mkdir()
    layer = replace(
        layer_databases, objects=ObjectsEndpoint(Level.EMBEDDED, objects.as_uri(), objects)
    )
    list(every_command())  # loads the modules of all
    for name, module in list(sys.modules.items()):
        if name.startswith("neolayer.") and callable(getattr(module, "endpoints", None)):
            monkeypatch.setattr(module, "endpoints", lambda settings: layer)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "keystore.json").write_text(json.dumps(keystore_of(b"\x46" * 32, PASSWORD)))
    (tmp_path / "quote.bin").write_bytes(quote(SGX))
    (tmp_path / "collateral.json").write_bytes(collateral(SGX))
    (tmp_path / "tx.json").write_text(
        json.dumps({"to": ADDRESS, "value": 1, "nonce": 0, "gas": 21_000, "gasPrice": 10**9})
    )
    with psycopg.connect(layer.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        admin.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', %s, 'evm')",
            (PRESETS["ethereum"].chain_id,),
        )

    def shown() -> tuple[str, str]:
        out = capsys.readouterr()
        return out.out, out.err

    return Desk(layer, tmp_path, shown)


def test_every_example_of_the_security_core_runs(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All do what they say, but those that must be refused; and none of the groups is left out."""
    lines = ordered()
    assert len(lines) > 70
    for command, line in lines:
        for part in line.split(" && neolayer "):
            code, out, err = desk.run(command, part, monkeypatch)
            assert code == (1 if command in REFUSED else 0), f"{line}\n{out}\n{err}"
        after(desk, command, out, monkeypatch)


def test_E17_what_is_too_large_is_refused_with_its_field_and_limit(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Typed at the command line: a sentence that says which value, how large, and how large it
    may be."""
    desk.run("", "tenants create acme", monkeypatch)
    desk.typed["append"] = json.dumps({"text": "x" * 600_000})
    append = "events append --tenant acme --type Opened --category account --data -"
    for command, line, said in (
        ("append", append, "data has 600011 bytes as JSON; at most 524288"),
        (
            "",
            f'events append --tenant acme --type A --category a --metadata \'{{"a": "{LONG}"}}\'',
            "metadata has 150008 bytes as JSON; at most 131072",
        ),
        (
            "",
            f"roles create clerk wallets:read --tenant acme --description {'x' * 3000}",
            "description has 3000 characters; at most 2000",
        ),
    ):
        code, out, err = desk.run(command, line, monkeypatch)
        assert (code, out) == (2, ""), err
        assert said in " ".join(err.split())


def after(desk: Desk, command: str, out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody does between two examples."""
    match command:
        case "users mfa begin":
            seed = re.findall(r"secret=(\w+)", out)[0]
            desk.typed["users mfa confirm"] = TOTP(seed).at(int(time()))
        case "users rename":
            desk.run(command, "users rename ann.smith --username ann --tenant acme", monkeypatch)
        case "attestations policy show":
            accepted = {"enclaves": [{"mr_signer": SGX_SIGNER, "isv_prod_id": 0}]}
            (desk.folder / "policy.json").write_text(json.dumps(accepted))
        case "attestations verify":
            asyncio.run(_work(desk, UUID(desk.row("SELECT id FROM core.tenants"))))
        case _:
            pass


async def _work(desk: Desk, tenant: UUID) -> None:
    """What enclaves store, and the sealer."""
    async with open_core(desk.layer, application_name="tests") as core:
        scope = core.scope(tenant, by=Principal.operator("tests"))
        await SealedDataStore(scope).put(
            "master-key",
            b"sealed",
            mac="ab" * 32,
            enclave_id="vault",
            sealing=SealingPolicy(Sealing.USER_DEFINED),
            expected_version=0,
            owner_id=UUID(desk.row("SELECT id FROM auth.users")),
        )
        await Computations(scope).submit(
            enclave_id="vault", operation_type="sum", input_hash="ab" * 32
        )
    sealer = Sealer(desk.layer.postgres.dsn(Role.AUDITOR))
    await sealer.seal_waiting()
    await sealer.close()
