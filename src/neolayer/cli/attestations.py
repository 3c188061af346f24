"""`neolayer attestations`: quotes judged, what is accepted, and what is known of platforms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_line, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.values import Id, Instant, Page, whole
from neolayer.cli.within_tenant import TenantOption, platform_scope, tenant_scope
from neolayer.enclave import (
    Attestation,
    Attestations,
    Collateral,
    CollateralStore,
    Outcome,
    Status,
    Verification,
)
from neolayer.enclave.policies import policy_from_json, policy_to_json
from neolayer.enclave.quotes import MAX_QUOTE_BYTES
from neolayer.enclave.reasons import hint_of
from neolayer.enclave.tasks import EnclaveKeeper
from neolayer.errors import InvalidInput, visible
from neolayer.platform import endpoints
from neolayer.tenancy import open_core

app = App(name="attestations", help="Enclaves' quotes: judge them, and say what is accepted.")
root.command(app)
policies = App(name="policy", help="What a tenant accepts.")
app.command(policies)
collateral = App(name="collateral", help="What Intel publishes about platforms; for all tenants.")
app.command(collateral)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
At = Annotated[
    Instant | None, Parameter(help="The time to judge for, such as 2025-06-20T10:00:00 (UTC).")
]
Enclave = Annotated[str, Parameter(name="--enclave", help="Your name for the enclave.")]
File = Annotated[Path, Parameter(help="A file.")]
AttestationId = Annotated[Id, Parameter(help="Id of the attestation.")]
Limit = Annotated[Page, Parameter(help="How many at most.")]
Lifetime = Annotated[int, whole(1, 3600)]
REFUSED = 1
_LARGEST = 2 * 1024 * 1024


@app.command
async def verify(
    file: File, /, *, tenant: TenantOption, enclave: Enclave, at: At = None, as_json: AsJson = False
) -> int:
    """Judge a quote, raw or in hex, and store the outcome; exits with 1 where it is refused.

    Example: neolayer attestations verify quote.bin --tenant acme --enclave vault
    """
    quote = _read_quote(file)
    async with tenant_scope(tenant) as (_, scope):
        outcome = await Attestations(scope).verify(quote, enclave_id=enclave, at=given(at))
    if as_json:
        write_json(_outcome(outcome))
    else:
        write_line(_told(outcome))
        if outcome.hint:
            say(f"hint: {outcome.hint}")
    return 0 if outcome.is_accepted else REFUSED


@app.command(name="list")
async def list_attestations(
    *,
    tenant: TenantOption,
    enclave: Annotated[str | None, Parameter(help="Only this enclave's.")] = None,
    status: Annotated[Status | None, Parameter(help="Only these.")] = None,
    after: Annotated[Id | None, Parameter(help="Begin after this id.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List attestations, the newest first.

    Example: neolayer attestations list --tenant acme --status verified
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await Attestations(scope).list(
            enclave_id=enclave, status=status, after=after, limit=limit
        )
    if as_json:
        write_json([asdict(one) for one in found])
        return
    columns = ("id", "enclave", "tee", "status", "reason", "mr_enclave", "expires")
    write_table(columns, [_row(one) for one in found])
    if len(found) == limit:
        say(f"There may be more: --after {found[-1].id}")


@app.command
async def show(
    attestation: AttestationId, /, *, tenant: TenantOption, as_json: AsJson = False
) -> None:
    """Show an attestation and each judgement of it.

    Example: neolayer attestations show 6f1c9c1e-0f5e-4a55-9d2b-3f1f6b0a7c11 --tenant acme
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await Attestations(scope).attestation(attestation)
        judged = await Attestations(scope).verifications(attestation)
    if as_json:
        write_json(asdict(found) | {"verifications": [asdict(one) for one in judged]})
        return
    write_table(("what", "value"), [(name, _cell(value)) for name, value in asdict(found).items()])
    _write_verifications(judged)
    if hint := hint_of(found.reason):
        say(f"hint: {hint}")


@app.command
async def history(*, tenant: TenantOption, limit: Limit = 100, as_json: AsJson = False) -> None:
    """List every judgement, also of bytes that were no quote, the newest first.

    Example: neolayer attestations history --tenant acme --limit 20
    """
    async with tenant_scope(tenant) as (_, scope):
        judged = await Attestations(scope).verifications(limit=limit)
    if as_json:
        write_json([asdict(one) for one in judged])
    else:
        _write_verifications(judged)


@app.command
async def nonce(
    *,
    tenant: TenantOption,
    enclave: Enclave,
    lifetime_s: Annotated[
        Lifetime, Parameter(name="--lifetime", help="Seconds in which it is to be answered.")
    ] = 300,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Issue a nonce: an enclave answers by a quote whose report data begin with it.

    Example: neolayer attestations nonce --tenant acme --enclave vault
    """
    async with tenant_scope(tenant) as (_, scope):
        made = await Attestations(scope).issue_nonce(
            enclave_id=enclave, at=given(at), lifetime=timedelta(seconds=lifetime_s)
        )
    if as_json:
        write_json({"nonce": made.value.hex(), "expires_at": made.expires_at})
    else:
        print(made.value.hex())
        say(f"until {made.expires_at:%Y-%m-%d %H:%M:%S} UTC")


@app.command
async def revoke(
    attestation: AttestationId,
    /,
    *,
    tenant: TenantOption,
    because: Annotated[str, Parameter(help="Why, for the history.")],
    at: At = None,
) -> None:
    """Take an attestation back, for good.

    Example: neolayer attestations revoke 6f1c9c1e-0f5e-4a55-9d2b-3f1f6b0a7c11 --tenant acme
    --because "key leaked"
    """
    async with tenant_scope(tenant) as (_, scope):
        await Attestations(scope).revoke(attestation, at=given(at), because=because)
    say("Revoked.")


@app.command
async def reverify(
    *,
    tenant: Annotated[str | None, Parameter(help="Only this tenant's.")] = None,
    at: At = None,
    as_json: AsJson = False,
) -> None:
    """Judge live attestations anew where collateral or policy are newer, or they are over.

    A running layer does so every minute.

    Example: neolayer attestations reverify
    """
    judged, instant = 0, given(at)
    if tenant is None:
        where = endpoints(invocation().settings)
        async with open_core(where, size=1, application_name="cli") as core:
            judged = await EnclaveKeeper(where, core).reverify(instant)
    else:
        async with tenant_scope(tenant) as (_, scope):
            while batch := await Attestations(scope).reverify(at=instant):
                judged += batch
    if as_json:
        write_json({"judged": judged})
    else:
        say(f"Judged {judged} anew.")


@policies.command(name="show")
async def show_policy(*, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Show what a tenant accepts, in the form that `policy set` takes.

    Example: neolayer attestations policy show --tenant acme > policy.json
    """
    async with tenant_scope(tenant) as (_, scope):
        found = await Attestations(scope).policy()
    if found is None:
        say("There is no policy, so nothing is accepted.")
        write_json(None)
        return
    version, policy = found
    if not as_json:
        say(f"version {version}")
    write_json(policy_to_json(policy))


@policies.command(name="set")
async def set_policy(file: File, /, *, tenant: TenantOption, as_json: AsJson = False) -> None:
    """Replace what a tenant accepts by a JSON file; what it leaves out is strict.

    {"enclaves": [{"mr_signer": "...", "isv_prod_id": 1, "min_isv_svn": 4}]} accepts one signer's
    product on platforms that are up to date, quoted over a nonce of ours, for a day.

    Example: neolayer attestations policy set policy.json --tenant acme
    """
    policy = policy_from_json(_read(file))
    async with tenant_scope(tenant) as (_, scope):
        version = await Attestations(scope).set_policy(policy)
    if as_json:
        write_json({"version": version})
    else:
        say(f"Version {version}. Live attestations are judged by it within a minute.")


@collateral.command(name="add")
async def add_collateral(file: File, /, *, as_json: AsJson = False) -> None:
    """Check collateral, a JSON file as PCCS tools write it, and keep it for all tenants.

    Example: neolayer attestations collateral add collateral.json
    """
    document = _read(file)
    async with platform_scope() as (_, scope):
        kept = await CollateralStore(scope).add(document)
    if as_json:
        write_json(_collateral(kept))
    else:
        say(f"Kept {kept.id[:16]} for {kept.tee} {kept.fmspc} ({kept.ca}), until {_until(kept)}.")


@collateral.command(name="list")
async def list_collateral(
    *,
    fmspc: Annotated[str | None, Parameter(help="Only this kind of platform's.")] = None,
    limit: Limit = 100,
    as_json: AsJson = False,
) -> None:
    """List what is known of platforms, the newest first.

    Example: neolayer attestations collateral list --fmspc 00A067110000
    """
    async with platform_scope() as (_, scope):
        found = await CollateralStore(scope).list(fmspc=fmspc, limit=limit)
    if as_json:
        write_json([_collateral(one) for one in found])
        return
    columns = ("id", "tee", "fmspc", "ca", "evaluation", "issued", "until")
    rows = [
        (
            *(one.id[:16], one.tee, one.fmspc, one.ca, one.tcb_evaluation_number),
            *(_time(one.issued_at), _until(one)),
        )
        for one in found
    ]
    write_table(columns, rows)


def given(at: datetime | None) -> datetime:
    """The time given, in UTC where no zone was; now where none was."""
    if at is None:
        return datetime.now(UTC)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _read(file: Path, *, largest: int = _LARGEST) -> bytes:
    try:
        with file.open("rb") as source:
            found = source.read(largest + 1)
    except OSError as exc:
        raise InvalidInput(f"{visible(str(file))}: {exc.strerror}") from exc
    if len(found) > largest:
        raise InvalidInput(f"{visible(str(file))} has more than {largest} bytes")
    return found


def _read_quote(file: Path) -> bytes:
    found = _read(file, largest=4 * MAX_QUOTE_BYTES)
    text = found.strip().removeprefix(b"0x")
    try:
        return bytes.fromhex(text.decode("ascii"))
    except ValueError:  # not hex, hence raw
        return found


def _told(outcome: Outcome) -> str:
    if outcome.is_accepted:
        return (
            f"accepted until {_time(outcome.expires_at)} ({outcome.expires_because}),"
            f" TCB {outcome.tcb_status}: {outcome.attestation_id}"
        )
    detail = f" ({visible(outcome.detail)})" if outcome.detail else ""
    return f"{outcome.status}: {outcome.reason}{detail}"


def _outcome(outcome: Outcome) -> dict[str, Any]:
    return asdict(outcome) | {"accepted": outcome.is_accepted, "hint": outcome.hint}


def _row(one: Attestation) -> tuple[object, ...]:
    return (
        *(one.id, one.enclave_id, one.tee, one.status, one.reason, one.mr_enclave[:16]),
        _time(one.expires_at),
    )


def _write_verifications(judged: Sequence[Verification]) -> None:
    columns = ("judged for", "occasion", "status", "reason", "detail", "by")
    rows = [
        (
            *(_time(one.verified_at), one.occasion, one.status, one.reason),
            *(one.detail and visible(one.detail), one.verified_by),
        )
        for one in judged
    ]
    write_table(columns, rows)


def _collateral(one: Collateral) -> dict[str, Any]:
    return {name: value for name, value in asdict(one).items() if name != "document"}


def _until(one: Collateral) -> str:
    part, until = min(one.parts_until.items(), key=lambda entry: entry[1])
    return f"{_time(until)} ({part})"


def _time(instant: datetime | None) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if instant else ""


def _cell(value: object) -> object:
    if isinstance(value, datetime):
        return _time(value)
    return ", ".join(map(str, value)) if isinstance(value, list) else value  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType]
