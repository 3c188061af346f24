"""Blocks and application logs as Neo N3 nodes write them, typed.

Lists that are kept as given (signers, attributes, witnesses) stay raw; what is hashed of them is
read again, typed, by `neo_payloads.py`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from neolayer.chain.decoding import Decoder
from neolayer.chain.wire import RpcError, answer_decoder
from neolayer.errors import BadBlock, SourceError

Json = bytes | msgspec.Raw


class Transaction(msgspec.Struct, frozen=True):
    """A transaction of a verbose `getblock`. Fees are in fractions of GAS (10^-8)."""

    hash: str
    version: int
    nonce: int
    sender: str
    sysfee: str | int
    netfee: str | int
    validuntilblock: int
    signers: msgspec.Raw
    attributes: msgspec.Raw
    script: str
    witnesses: msgspec.Raw
    size: int | None = None


class Block(msgspec.Struct, frozen=True):
    """A verbose `getblock`. `time` is in milliseconds, `nonce` is hex."""

    hash: str
    version: int
    previousblockhash: str
    merkleroot: str
    time: int
    index: int
    nextconsensus: str
    witnesses: msgspec.Raw
    tx: list[Transaction]
    nonce: str = "0" * 16
    primary: int = 0
    size: int | None = None


class Condition(msgspec.Struct, frozen=True):
    """When a witness rule applies; conditions nest."""

    type: str
    expression: bool | Condition | None = None
    expressions: list[Condition] = []
    hash: str | None = None
    group: str | None = None


class Rule(msgspec.Struct, frozen=True):
    """Allow or deny a witness's use under a condition."""

    action: str
    condition: Condition


class Signer(msgspec.Struct, frozen=True):
    """An account that signs, and how far its signature reaches."""

    account: str
    scopes: str
    allowedcontracts: list[str] = []
    allowedgroups: list[str] = []
    rules: list[Rule] = []


class Attribute(msgspec.Struct, frozen=True):
    """An attribute of a transaction; its fields follow from its type."""

    type: str
    id: int | None = None
    code: str | None = None
    result: str | None = None
    height: int | None = None
    hash: str | None = None
    nkeys: int | None = None


class Notification(msgspec.Struct, frozen=True):
    """What a contract said. `state` is a stack item: a type and a value."""

    contract: str
    eventname: str
    state: Any = None


class Execution(msgspec.Struct, frozen=True):
    """One run of a script; `trigger` tells a transaction's from the block's own."""

    trigger: str
    vmstate: str
    gasconsumed: str | int = "0"
    exception: str | None = None
    notifications: list[Notification] = []


class ApplicationLog(msgspec.Struct, frozen=True):
    """A `getapplicationlog`, of a transaction (`txid`) or of a block (`blockhash`)."""

    executions: list[Execution]
    txid: str | None = None
    blockhash: str | None = None


_block_decoder = Decoder(Block)
signers_decoder = Decoder(list[Signer])
attributes_decoder = Decoder(list[Attribute])
_application_log_decoder = Decoder(ApplicationLog)


def read_block(answer: Json, origin: str) -> Block:
    """The block in an answer, which may be bare. Raises SourceError for the node's error."""
    try:
        return _block_decoder.decode(_result(answer, "block", origin))
    except msgspec.DecodeError as exc:
        reason = str(exc)
        if "got `str`" in reason and "$" not in reason:
            reason = "it is hex; ask for the verbose form"
        raise BadBlock(f"not a verbose Neo N3 block: {reason}", origin=origin) from exc


def read_application_log(answer: Json, origin: str) -> ApplicationLog:
    """The application log in an answer, as `read_block` reads."""
    try:
        return _application_log_decoder.decode(_result(answer, "application log", origin))
    except msgspec.DecodeError as exc:
        raise BadBlock(f"not an application log: {exc}", origin=origin) from exc


def _result(answer: Json, what: str, origin: str) -> Json:
    """What an answer holds; a bare value is its own result."""
    absent = BadBlock(f"the node had no such {what} (its answer is null)", origin=origin)
    if bytes(answer).strip() == b"null":
        raise absent
    try:
        decoded = answer_decoder.decode(answer)
    except msgspec.DecodeError as exc:
        raise BadBlock(f"not a JSON object: {exc}", origin=origin) from exc
    if isinstance(decoded.error, RpcError):
        said = f"{decoded.error.message} ({decoded.error.code})"
        raise SourceError(f"{origin}: the node answered with an error: {said}")
    if not isinstance(decoded.result, msgspec.Raw):
        return answer
    if bytes(decoded.result) == b"null":
        raise absent
    return decoded.result
