"""`neolayer wallets`: the verbs as a person types them, and how secrets go in and out."""

from __future__ import annotations

import io
import json
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
from eth_account import Account
from tests.fixtures.fix_wallets import NETWORKS
from tests.unit.test_wallets_keystores import keystore_of

from neolayer.chain.networks import PRESETS
from neolayer.cli import main, within_tenant
from neolayer.engines.endpoints import Endpoints, Role

KEY = "46" * 32
ADDRESS = "0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F"
PASSWORD = "correct horse battery staple"

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def tenant(module_databases: Endpoints) -> str:
    """A tenant, in databases that know the usual networks."""
    identifier = f"t{uuid4()}"
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN, "neolayer")) as admin:
        admin.execute(
            "INSERT INTO core.tenants (name, identifier, subscription_tier)"
            " VALUES ('Acme', %s, 'enterprise')",
            (identifier,),
        )
        for name in NETWORKS:
            network = PRESETS[name]
            admin.execute(
                "INSERT INTO blockchain.networks (name, chain_id, network_type)"
                " VALUES (%s, %s, %s)",
                (name, network.chain_id, network.kind),
            )
    return identifier


@pytest.fixture
def run(
    tenant: str,
    module_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs a command with `typed` on stdin: exit code, stdout, stderr."""
    monkeypatch.setattr(within_tenant, "endpoints", lambda settings: module_databases)
    monkeypatch.chdir(tmp_path)

    def called(*arguments: str, typed: str = "", tenant: str = tenant) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(typed.encode())))
        with pytest.raises(SystemExit) as stopped:
            main(("wallets", *arguments, "--tenant", tenant, "--data-dir", str(tmp_path / "layer")))
        shown = capsys.readouterr()
        return int(stopped.value.code or 0), shown.out, shown.err

    return called


def answer(run: Run, *arguments: str, typed: str = "") -> Any:
    code, out, err = run(*arguments, "--json", typed=typed)
    assert code == 0, err
    return json.loads(out)


def test_a_wallet_from_its_making_to_its_end(run: Run) -> None:
    """create, list, show, rename, sign, delete; JSON on stdout is JSON alone."""
    made = answer(run, "create", "--network", "ethereum", "--name", "Treasury", "--type", "cold")
    assert (made["name"], made["custody"], made["network"]) == ("Treasury", "custodial", "ethereum")
    by_id = answer(run, "show", made["id"])
    by_address = answer(run, "show", made["address"].lower(), "--network", "ethereum")
    assert by_id == by_address == made
    assert made in answer(run, "list", "--network", "ethereum")["items"]
    assert answer(run, "rename", made["id"], "--name", "Old")["name"] == "Old"
    transaction = {"to": ADDRESS, "value": "0x1", "gas": 21000, "gasPrice": 1, "nonce": 0}
    Path("transaction.json").write_text(json.dumps(transaction))
    code, out, err = run("sign", made["id"], "transaction.json")
    assert (code, Account.recover_transaction(out.strip())) == (0, made["address"])
    assert "signed 0x" in err
    piped = answer(run, "sign", made["id"], typed=json.dumps(transaction))
    assert piped["raw"] == out.strip()
    for typed in ('{"nonce": 1, "nonce": 2}', "[]", "not JSON", '{"a":' * 9999, "1e999"):
        code, out, err = run("sign", made["id"], typed=typed)
        assert (code, out) == (2, "") and "the transaction is not" in err
    code, _, err = run("delete", made["id"])
    assert code == 1 and "destroys its private key" in err
    assert run("delete", made["id"], "--destroy-key")[0] == 0
    code, _, err = run("show", made["id"])
    assert code == 1 and "no such wallet" in err


def test_E12_secrets_come_by_pipe_and_file(run: Run, tmp_path: Path) -> None:
    """A key from a pipe, a keystore with its password from a file; neither is shown."""
    made = answer(run, "import", "--network", "ethereum", typed=KEY + "\n")
    assert made["address"] == ADDRESS
    keystore, password = tmp_path / "keystore.json", tmp_path / "password"
    keystore.write_text(json.dumps(keystore_of(bytes.fromhex(KEY), PASSWORD)))
    password.write_text(PASSWORD + "\n")
    arguments = ("import", str(keystore), "--network", "sepolia")
    made = answer(run, *arguments, "--password-file", str(password))
    assert made["address"] == ADDRESS
    code, out, err = run(*arguments, typed="wrong\n")
    assert code == 2 and "wrong password" in err and out == ""
    for typed in ("", "\n", "not a key\n", KEY + "00\n"):
        code, out, err = run("import", "--network", "ethereum", typed=typed)
        assert code == 2 and KEY not in err + out


def test_E12_a_keystore_goes_to_a_file_of_our_own(run: Run, tmp_path: Path) -> None:
    """0600, never over another file, and nothing is left after an error."""
    made = answer(run, "create", "--network", "ethereum")
    file = tmp_path / "out.json"
    arguments = ("export", made["id"], str(file), "--kdf", "pbkdf2")
    code, out, err = run(*arguments, typed="short\n")
    assert code == 2 and not file.exists()
    code, out, err = run(*arguments, typed=PASSWORD + "\n")
    assert (code, out) == (0, "")
    assert PASSWORD not in err
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert Account.from_key(Account.decrypt(file.read_text(), PASSWORD)).address == made["address"]
    before = file.read_bytes()
    code, _, err = run(*arguments, typed=PASSWORD + "\n")
    assert code == 2 and file.read_bytes() == before
    link = tmp_path / "link.json"
    link.symlink_to(tmp_path / "elsewhere.json")
    assert run("export", made["id"], str(link), typed=PASSWORD + "\n")[0] == 2
    assert not (tmp_path / "elsewhere.json").exists()


def test_watching_and_devices(run: Run) -> None:
    """watch, hardware, transactions and balance, in words and in JSON."""
    watched = answer(run, "watch", "0x" + "52" * 20, "--network", "ethereum")
    assert watched["custody"] == "watch-only"
    public_key = "033a4d051b04b7fc0230d2b1aaedfd5a84be279a5361a7358db665ad7857787f1b"
    device = answer(run, "hardware", public_key, "--network", "neo-n3")
    assert device["address"] == "NM7Aky765FG8NhhwtxjXRx7jEL1cnw7PBP"
    assert device["script_hash"] == "0x69ecca587293047be4c59159bf8bc399985c160d"
    for wallet in (watched, device):
        found = answer(run, "transactions", wallet["id"])
        assert found == {"items": [], "after": None}
        assert answer(run, "balance", wallet["id"])["amount"] == "0"
        for verb in ("show", "transactions", "balance"):
            assert run(verb, wallet["id"])[0] == 0
    code, _, err = run("sign", device["id"], typed="{}")
    assert code == 1 and "not held here" in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("create", "--network", "nowhere"), "not known"),
        (("watch", ADDRESS[:-1] + "f", "--network", "ethereum"), "checksum"),
        (("show", ADDRESS), "--network"),
        (("show", ADDRESS, "--network", "neo-n3-testnet"), "not a Neo N3 address"),
        (("rename", str(uuid4())), "nothing is to change"),
        (("rename", str(uuid4()), "--name", "x"), "no such wallet"),
        (("list", "--limit", "0"), "--limit: '0' is not from"),
        (("list", "--after", "x"), "where a page of this list ended"),
        (("import", "nowhere.json", "--network", "ethereum"), "cannot be read"),
        (("sign", str(uuid4()), "nowhere.json"), "cannot be read"),
        (("balance", str(uuid4()), "--block", "-1"), "--block: '-1' is not"),
    ],
)
def test_D_what_is_refused(run: Run, arguments: tuple[str, ...], said: str) -> None:
    """One error in words, exit code 1 or 2, nothing on stdout."""
    code, out, err = run(*arguments)
    assert code in (1, 2) and out == ""
    assert said in " ".join(err.split())


def test_an_unknown_tenant(run: Run) -> None:
    """Wallets are always somebody's."""
    code, out, err = run("list", tenant="nobody")
    assert code == 1 and out == "" and "tenant" in err


def test_the_whole_amount_is_shown() -> None:
    """Coins are exact to the last digit, however large."""
    from neolayer.cli.wallets import _coins

    assert _coins(10**18, "evm") == "1"
    assert _coins(-1, "evm") == "-0.000000000000000001"
    assert _coins(2**200 + 1, "evm").replace(".", "") == str(2**200 + 1)
    assert _coins(150_000_000, "neo-n3") == "1.5"
