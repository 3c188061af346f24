"""The Python of docs/how-to/attestations.md runs, on the samples it names."""

from __future__ import annotations

import ast
import inspect
import re
from uuid import UUID

from tests.fixtures import quotes
from tests.fixtures.fix_enclave import EnclaveTenant
from tests.fixtures.quotes import SGX, SGX_SIGNER, THEN
from tests.fixtures.shared_data import REPOSITORY

from neolayer import enclave
from neolayer.enclave.policies import policy_from_json
from neolayer.enclave.reasons import Reason
from neolayer.engines.endpoints import Endpoints
from neolayer.tenancy import Principal, open_core

PAGE = (REPOSITORY / "docs" / "how-to" / "attestations.md").read_text(encoding="utf-8")


def block(language: str) -> str:
    found = re.search(rf"```{language}\n(.*?)```", PAGE, re.DOTALL)
    assert found is not None
    return found[1]


async def test_the_how_to_runs(module_databases: Endpoints, enclave_tenant: EnclaveTenant) -> None:
    """From collateral to a result, as it stands on the page."""
    tenant: UUID | None = (await enclave_tenant()).tenant
    names = {name: getattr(enclave, name) for name in enclave.__all__} | {
        "open_core": open_core,
        "Principal": Principal,
        "endpoints": module_databases,
        "tenant": tenant,
        "collateral": quotes.collateral(SGX),
        "quote": quotes.quote(SGX),
        "SIGNER": SGX_SIGNER,
        "sha256": "00" * 32,
        "then": THEN,
    }
    code = compile(block("python"), "attestations.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    running = eval(code, names)
    assert inspect.isawaitable(running)
    await running
    assert names["result"].output == b"42"


def test_the_policy_on_the_page_can_be_set() -> None:
    """What is shown is what `policy set` takes."""
    policy = policy_from_json(block("json").encode())
    assert policy.enclaves[0].mr_signer == SGX_SIGNER


def test_every_reason_is_explained() -> None:
    """A code that the page does not know helps nobody."""
    for reason in Reason:
        assert reason is Reason.ACCEPTED or f"`{reason}`" in PAGE, reason
