"""`neolayer attestations`, `sealed` and `computations` as an operator uses them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from tests.fixtures.fix_enclave import Attesting, EnclaveTenant
from tests.fixtures.owners import new_owner
from tests.fixtures.quotes import DEBUG, SGX, SGX_ENCLAVE, SGX_SIGNER, THEN, quote
from tests.fixtures.shared_data import shared_data

from neolayer import platform
from neolayer.cli import attestations as attestations_cli
from neolayer.cli import main, within_tenant
from neolayer.enclave import (
    Attestations,
    Computations,
    SealedDataStore,
    Sealing,
    SealingPolicy,
)
from neolayer.engines.endpoints import Endpoints

Run = Callable[..., Awaitable[tuple[int, Any, str]]]
AT = ("--at", "2025-06-20T10:56:11")
POLICY = {
    "enclaves": [{"mr_signer": SGX_SIGNER, "isv_prod_id": 0}],
    "tcb_statuses": ["UpToDate", "ConfigurationAndSWHardeningNeeded"],
    "nonce_required": False,
}


@pytest.fixture
def run(
    module_databases: Endpoints,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Run:
    """Runs `neolayer ...`; the exit code, stdout (as JSON where asked for), stderr."""
    monkeypatch.chdir(tmp_path)
    for module in (within_tenant, platform, attestations_cli):
        monkeypatch.setattr(module, "endpoints", lambda _: module_databases)

    def command(*arguments: str) -> tuple[int, Any, str]:
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--data-dir", str(tmp_path)])
        shown = capsys.readouterr()
        output = json.loads(shown.out) if "--json" in arguments and shown.out else shown.out
        return int(stopped.value.code or 0), output, shown.err

    async def in_thread(*arguments: str) -> tuple[int, Any, str]:
        return await asyncio.to_thread(command, *arguments)

    return in_thread


def sample(name: str) -> str:
    return str(shared_data("data", "sgx", name))


async def test_from_collateral_to_a_verdict(
    run: Run, enclave_tenant: EnclaveTenant, tmp_path: Path
) -> None:
    """The commands of docs/how-to/attestations.md."""
    tenant = ("--tenant", str((await enclave_tenant()).tenant))
    code, kept, _ = await run(
        "attestations", "collateral", "add", sample(f"{SGX}_collateral.json"), "--json"
    )
    assert (code, kept["fmspc"]) == (0, "00a067110000") and "document" not in kept
    code, listed, _ = await run("attestations", "collateral", "list", "--json")
    assert code == 0 and kept["id"] in [one["id"] for one in listed]
    verify = ("attestations", "verify", sample(SGX), *tenant, "--enclave", "vault", *AT)
    code, outcome, _ = await run(*verify, "--json")
    assert (code, outcome["reason"]) == (1, "no_policy") and "policy set" in outcome["hint"]
    file = tmp_path / "policy.json"
    file.write_text(json.dumps(POLICY))
    code, version, _ = await run("attestations", "policy", "set", str(file), *tenant, "--json")
    assert (code, version) == (0, {"version": 1})
    code, shown, _ = await run("attestations", "policy", "show", *tenant, "--json")
    assert code == 0 and POLICY.items() <= {**shown, "enclaves": POLICY["enclaves"]}.items()
    file.write_text(json.dumps(shown))
    assert (await run("attestations", "policy", "set", str(file), *tenant))[0] == 0
    code, outcome, _ = await run(*verify, "--json")
    assert (code, outcome["accepted"]) == (0, True)
    code, out, _ = await run("attestations", "verify", sample(DEBUG), *verify[3:])
    assert code == 1 and out.startswith("rejected: debug")
    code, listed, _ = await run("attestations", "list", *tenant, "--status", "verified", "--json")
    assert [one["id"] for one in listed] == [outcome["attestation_id"]]
    code, shown, _ = await run("attestations", "show", listed[0]["id"], *tenant, "--json")
    assert code == 0 and {one["reason"] for one in shown["verifications"]} == {
        "accepted",
        "no_policy",
    }
    code, history, _ = await run("attestations", "history", *tenant, "--json")
    assert [one["reason"] for one in history] == ["debug", "accepted", "no_policy"]
    code, judged, _ = await run(
        "attestations", "reverify", *tenant, "--at", "2025-06-22T00:00:00", "--json"
    )
    assert (code, judged) == (0, {"judged": 1})


async def test_quotes_in_hex_and_bytes_that_are_none(
    run: Run, attesting: Attesting, tmp_path: Path
) -> None:
    """A quote may come as hex; rubbish, an empty, a huge and an absent file have an answer each."""
    tenant = ("--tenant", str((await attesting()).scope.tenant))
    file = tmp_path / "quote"
    for content, code, words in (
        (b"0x" + quote(SGX).hex().encode() + b"\n", 0, "accepted"),
        (b"\x00\xff rubbish", 1, "undecodable"),
        (b"", 1, "empty"),
        (bytes(100_000), 1, "too_large"),
        (bytes(1_000_000), 2, "more than"),
    ):
        file.write_bytes(content)
        found = await run("attestations", "verify", str(file), *tenant, "--enclave", "vault", *AT)
        assert found[0] == code and words in found[1] + found[2], content[:9]
    found = await run("attestations", "verify", "absent", *tenant, "--enclave", "vault")
    assert found[0] == 2 and "No such file" in found[2]


async def test_bad_policies_are_told(run: Run, attesting: Attesting, tmp_path: Path) -> None:
    """What a hand may write wrong: exit code 2 and a sentence, and the old policy stays."""
    attestations = await attesting()
    tenant = ("--tenant", str(attestations.scope.tenant))
    file = tmp_path / "policy.json"
    for bad in (
        "",
        "[]",
        "{}",
        '{"enclaves": [{}]}',
        '{"enclaves": [], "tcb_status": ["UpToDate"]}',
        '{"enclaves": [], "tcb_statuses": ["UpToDate", "Revoked"]}',
        '{"enclaves": [], "max_lifetime_s": 1e30}',
        '{"enclaves": [], "nonce_required": "no"}',
    ):
        file.write_text(bad)
        code, _, error = await run("attestations", "policy", "set", str(file), *tenant)
        assert code == 2 and error.startswith("error: "), bad
    found = await attestations.policy()
    assert found is not None and found[0] == 1


async def test_a_nonce_and_a_revocation(run: Run, attesting: Attesting) -> None:
    """32 bytes of hex to quote over; and an attestation taken back."""
    attestations = await attesting()
    tenant = ("--tenant", str(attestations.scope.tenant))
    code, out, _ = await run("attestations", "nonce", *tenant, "--enclave", "vault")
    assert code == 0 and len(bytes.fromhex(out.strip())) == 32
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    assert outcome.attestation_id
    revoke = ("attestations", "revoke", str(outcome.attestation_id), *tenant, "--because", "leak")
    assert (await run(*revoke, *AT))[0] == 0
    assert not (await attestations.attestation(outcome.attestation_id)).holds(THEN)
    revoke = ("attestations", "revoke", str(uuid4()), *tenant, "--because", "leak")
    assert (await run(*revoke))[0] == 1


async def test_sealed_data_and_computations(run: Run, attesting: Attesting) -> None:
    """Listed, asked about before an upgrade, and shown."""
    attestations = await attesting()
    scope = attestations.scope
    tenant = ("--tenant", str(scope.tenant))
    store = SealedDataStore(await new_owner(scope))
    await store.put(
        "master-key",
        b"opaque",
        mac="00" * 16,
        enclave_id="vault",
        sealing=SealingPolicy(Sealing.MRENCLAVE, mr_enclave=SGX_ENCLAVE),
        expected_version=0,
    )
    code, listed, _ = await run("sealed", "list", *tenant, "--json")
    assert code == 0 and [one["data_key"] for one in listed] == ["master-key"]
    outcome = await attestations.verify(quote(SGX), enclave_id="vault", at=THEN)
    may = ("sealed", "may-open", str(outcome.attestation_id), "master-key", *tenant)
    assert (await run(*may, *AT))[0] == 0
    code, answer, _ = await run(*may, "--json")
    assert (code, answer["opening"], answer["may_open"]) == (1, "not_attested", False)
    build = ("sealed", "stranded", "vault", *tenant, "--mr-signer", SGX_SIGNER, "--mr-enclave")
    assert (await run(*build, SGX_ENCLAVE))[0] == 0
    code, stranded, _ = await run(*build, "00" * 32, "--json")
    assert code == 1 and [one["because"] for one in stranded] == ["other_build"]
    computations = Computations(scope)
    asked: UUID = await computations.submit(
        enclave_id="vault", operation_type="sum", input_hash="00" * 32
    )
    assert outcome.attestation_id
    await computations.claim(
        enclave_id="vault",
        attestation_id=outcome.attestation_id,
        worker="w1",
        at=THEN + timedelta(seconds=1),
    )
    code, listed, _ = await run("computations", "list", *tenant, "--status", "running", "--json")
    assert code == 0 and [one["id"] for one in listed] == [str(asked)]
    code, shown, _ = await run("computations", "show", str(asked), *tenant, "--json")
    assert (code, shown["worker"], shown["attempt"]) == (0, "w1", 1)
    for table in (
        ("attestations", "list"),
        ("attestations", "history"),
        ("sealed", "list"),
        ("computations", "list"),
        ("computations", "show", str(asked)),
        ("attestations", "show", str(outcome.attestation_id)),
    ):
        code, out, _ = await run(*table, *tenant)
        assert code == 0 and out.strip(), table


async def test_E1_another_tenants_ids_answer_as_absent_ones(run: Run, attesting: Attesting) -> None:
    """The same code and the same words."""
    ann, bob = await attesting(), await attesting()
    outcome = await ann.verify(quote(SGX), enclave_id="vault", at=THEN)
    answers = {
        await run("attestations", "show", str(one), "--tenant", str(bob.scope.tenant))
        for one in (outcome.attestation_id, uuid4())
    }
    ((code, _, error),) = answers
    assert code == 1 and "there is no such attestation" in error.lower(), error
    assert await Attestations(bob.scope).list() == []
