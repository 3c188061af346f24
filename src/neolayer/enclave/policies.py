"""What a tenant accepts, and the judgement of a genuine quote by it. No I/O.

That a quote is genuine is dcap-qvl's to say; that it is good enough is the tenant's. Without a
policy nothing is accepted, and no policy can accept a debug enclave or a revoked platform.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, cast

import msgspec

from neolayer.enclave.quotes import Quote
from neolayer.enclave.reasons import Reason
from neolayer.errors import InvalidInput

UP_TO_DATE = "UpToDate"
TCB_STATUSES = (
    UP_TO_DATE,
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
)
MAX_ENCLAVES = 1000
MAX_ADVISORIES = 1000
_HEX = re.compile(r"[0-9a-f]*")
_ADVISORY = re.compile(r"[A-Z0-9-]{1,50}")
LONGEST_POLICY = timedelta(days=3650)


@dataclass(frozen=True, slots=True)
class AllowedEnclave:
    """One enclave that may run: by `mr_enclave` (mr_td of a TD), or by `mr_signer` and product.

    `min_isv_svn` is the least security version. A TD may also be held to its four run-time
    registers, of which the last are those of what it booted. A TD's owner is not authenticated by
    the hardware, so there is no rule by signer for it. Raises InvalidInput.
    """

    mr_enclave: str | None = None
    mr_signer: str | None = None
    isv_prod_id: int | None = None
    min_isv_svn: int = 0
    rt_mr: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.mr_enclave is None) == (self.mr_signer is None):
            raise InvalidInput("an allowed enclave is named by mr_enclave or by mr_signer")
        if self.mr_enclave is not None:
            _require_hex("mr_enclave", self.mr_enclave, 64, 96)
        else:
            _require_hex("mr_signer", self.mr_signer or "", 64)
            if self.isv_prod_id is None:
                raise InvalidInput("a signer signs many products: say isv_prod_id")
        for register in self.rt_mr:
            _require_hex("rt_mr", register, 96)
        if self.rt_mr and (len(self.rt_mr) != 4 or len(self.mr_enclave or "") != 96):
            raise InvalidInput("rt_mr is a TD's four registers, beside its mr_td as mr_enclave")
        for name, number in (("isv_prod_id", self.isv_prod_id), ("min_isv_svn", self.min_isv_svn)):
            if number is not None and not 0 <= number <= 65535:
                raise InvalidInput(f"{name} is from 0 to 65535, not {number}")

    def names(self, quote: Quote) -> bool:
        """Whether the quote is of this enclave, whatever its security version."""
        if self.mr_enclave is not None:
            return (
                self.mr_enclave == quote.mr_enclave
                and (self.isv_prod_id is None or self.isv_prod_id == quote.isv_prod_id)
                and (not self.rt_mr or self.rt_mr == quote.rt_mr)
            )
        return (self.mr_signer, self.isv_prod_id) == (quote.mr_signer, quote.isv_prod_id)

    def admits(self, quote: Quote) -> bool:
        """Whether the quote is of this enclave in a version that is high enough."""
        return self.names(quote) and self.min_isv_svn <= (quote.isv_svn or 0)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a tenant accepts. The defaults are the strictest. Raises InvalidInput."""

    enclaves: tuple[AllowedEnclave, ...]
    tcb_statuses: tuple[str, ...] = (UP_TO_DATE,)
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation: int = 0
    nonce_required: bool = True
    max_collateral_age: timedelta = timedelta(days=30)
    max_lifetime: timedelta = timedelta(days=1)
    allow_smt: bool = False
    allow_dynamic_platform: bool = False
    allow_cached_keys: bool = False

    def __post_init__(self) -> None:
        unknown = set(self.tcb_statuses) - set(TCB_STATUSES)
        if unknown:
            raise InvalidInput(
                f"no TCB status that can be accepted: {', '.join(sorted(unknown))}",
                hint=f"one of {', '.join(TCB_STATUSES)}",
            )
        if UP_TO_DATE not in self.tcb_statuses:
            raise InvalidInput(f"{UP_TO_DATE} is always accepted: name it")
        if len(set(self.tcb_statuses)) < len(self.tcb_statuses):
            raise InvalidInput("a TCB status is named twice")
        if len(self.rejected_advisories) > MAX_ADVISORIES:
            raise InvalidInput(f"more than {MAX_ADVISORIES} rejected_advisories in one policy")
        if not all(_ADVISORY.fullmatch(advisory) for advisory in self.rejected_advisories):
            raise InvalidInput("an advisory is written like INTEL-SA-00615")
        if len(self.enclaves) > MAX_ENCLAVES:
            raise InvalidInput(f"more than {MAX_ENCLAVES} enclaves in one policy")
        if not 0 <= self.min_tcb_evaluation < 2**31:
            raise InvalidInput("min_tcb_evaluation is a small number, from 0")
        for name in ("max_collateral_age", "max_lifetime"):
            if not timedelta(0) < getattr(self, name) <= LONGEST_POLICY:
                raise InvalidInput(f"{name} is more than nothing and at most ten years")


def judge_enclave(quote: Quote, enclaves: Iterable[AllowedEnclave]) -> Reason | None:
    """Why this enclave may not run, or None where it may."""
    named = [allowed for allowed in enclaves if allowed.names(quote)]
    if not named:
        return Reason.ENCLAVE_NOT_ALLOWED
    return None if any(allowed.admits(quote) for allowed in named) else Reason.SVN_TOO_LOW


def enclave_to_json(allowed: AllowedEnclave) -> dict[str, Any]:
    """The rule as it is stored, without what is not said."""
    named: dict[str, Any] = {
        "mr_enclave": allowed.mr_enclave,
        "mr_signer": allowed.mr_signer,
        "isv_prod_id": allowed.isv_prod_id,
        "min_isv_svn": allowed.min_isv_svn,
        "rt_mr": list(allowed.rt_mr) or None,
    }
    return {name: value for name, value in named.items() if value is not None}


def enclave_from_json(value: object) -> AllowedEnclave:
    """The rule that was stored or written by hand. Raises InvalidInput."""
    if not isinstance(value, dict):
        raise InvalidInput("an allowed enclave is an object")
    fields = cast("dict[str, Any]", value)
    unknown = fields.keys() - {*AllowedEnclave.__slots__}
    if unknown:
        raise InvalidInput(f"an allowed enclave has no field {sorted(unknown)[0]!r}")
    for name, kind in (("mr_enclave", str), ("mr_signer", str), ("rt_mr", list)):
        if name in fields and not isinstance(fields[name], kind):
            raise InvalidInput(f"{name} is not a {kind.__name__}")
    for name in ("isv_prod_id", "min_isv_svn"):
        if name in fields and type(fields[name]) is not int:
            raise InvalidInput(f"{name} is a number")
    registers = cast("list[object]", fields.get("rt_mr", []))
    return AllowedEnclave(
        mr_enclave=fields.get("mr_enclave"),
        mr_signer=fields.get("mr_signer"),
        isv_prod_id=fields.get("isv_prod_id"),
        min_isv_svn=fields.get("min_isv_svn", 0),
        rt_mr=tuple(str(register) for register in registers),
    )


class _Written(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A policy as people write it; durations are in seconds."""

    enclaves: list[dict[str, Any]]
    tcb_statuses: tuple[str, ...] = (UP_TO_DATE,)
    rejected_advisories: tuple[str, ...] = ()
    min_tcb_evaluation: int = 0
    nonce_required: bool = True
    max_collateral_age_s: Annotated[int, msgspec.Meta(gt=0, le=315_360_000)] = 30 * 86_400
    max_lifetime_s: Annotated[int, msgspec.Meta(gt=0, le=315_360_000)] = 86_400
    allow_smt: bool = False
    allow_dynamic_platform: bool = False
    allow_cached_keys: bool = False


def policy_from_json(document: bytes) -> Policy:
    """A policy from its JSON form; what is left out is strict. Raises InvalidInput."""
    try:
        written = msgspec.json.decode(document, type=_Written)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as exc:
        raise InvalidInput(f"no policy: {exc}") from exc
    return Policy(
        enclaves=tuple(enclave_from_json(one) for one in written.enclaves),
        tcb_statuses=written.tcb_statuses,
        rejected_advisories=written.rejected_advisories,
        min_tcb_evaluation=written.min_tcb_evaluation,
        nonce_required=written.nonce_required,
        max_collateral_age=timedelta(seconds=written.max_collateral_age_s),
        max_lifetime=timedelta(seconds=written.max_lifetime_s),
        allow_smt=written.allow_smt,
        allow_dynamic_platform=written.allow_dynamic_platform,
        allow_cached_keys=written.allow_cached_keys,
    )


def policy_to_json(policy: Policy) -> dict[str, Any]:
    """The JSON form of a policy."""
    written = _Written(
        enclaves=[enclave_to_json(allowed) for allowed in policy.enclaves],
        tcb_statuses=policy.tcb_statuses,
        rejected_advisories=policy.rejected_advisories,
        min_tcb_evaluation=policy.min_tcb_evaluation,
        nonce_required=policy.nonce_required,
        max_collateral_age_s=int(policy.max_collateral_age.total_seconds()),
        max_lifetime_s=int(policy.max_lifetime.total_seconds()),
        allow_smt=policy.allow_smt,
        allow_dynamic_platform=policy.allow_dynamic_platform,
        allow_cached_keys=policy.allow_cached_keys,
    )
    return cast("dict[str, Any]", msgspec.to_builtins(written))


def _require_hex(name: str, text: str, *lengths: int) -> None:
    if len(text) not in lengths or not _HEX.fullmatch(text):
        sizes = " or ".join(map(str, lengths))
        raise InvalidInput(f"{name} is {sizes} digits of lower-case hex")
