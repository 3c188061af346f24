"""A block of Neo N3, from its JSON to rows.

What stands where: `miner` is the account of the validators who make the next block (N3 names no
other); `gas_used` is the system fee in fractions of GAS (10^-8), `gas_price` and `gas_limit` have
no counterpart; `to_address` is NULL, because a transaction runs a script (`input_data`) that may
touch any number of contracts. The rest of a transaction is in `envelope`, the rest of a block in
`header`, as given. A notification is a log: `topic0` is the name of the event as text, `data` its
state as JSON. A transaction that faulted changed nothing, so its notifications are no logs. Nor are
those of the block itself (fees burnt and minted around its transactions): no transaction is theirs.

With `verify` these are recomputed: each transaction's hash, the Merkle root over them, the block's
hash. Not checked: witnesses, and with them the network, which only witnesses commit to; that the
size is right; what stands in signers and attributes beside what is hashed of them; application
logs, which no hash of the block commits to.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import msgspec

from neolayer.chain import neo_payloads as payloads
from neolayer.chain.hexadecimal import address, hash32
from neolayer.chain.model import BlockRows, Network, Row
from neolayer.chain.neo_wire import (
    Block,
    Execution,
    Json,
    Transaction,
    read_application_log,
    read_block,
)
from neolayer.errors import BadBlock

# The native contract that deploys all others; its event Deploy names the new one.
CONTRACT_MANAGEMENT: Final = "0xfffdc93764dbaddd97c48f252a53ea4643faa3fd"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# From the epoch to where int64 nanoseconds end: what the database's checks allow.
_TIMES_MS = range(0, 9_214_646_400_000)
_MAX_EVENT_NAME = 66


def decode_block(
    answer: Json,
    *,
    network: Network,
    application_logs: Sequence[Json] | None,
    verify: bool,
    origin: str,
) -> BlockRows:
    """A verbose `getblock`, bare or in its JSON-RPC answer, with the logs of its transactions.

    Logs are `getapplicationlog` results or answers, in any order; each transaction needs one. None
    means that they were not asked for: then every transaction counts as confirmed. Raises
    SourceError where an answer is the node's error, BadBlock where the node had no such block
    (null) or where anything is malformed or, with `verify`, does not match its hashes.
    """
    if network.kind != "neo-n3":
        raise BadBlock(f"network {network.name} is not a Neo N3 network", origin=origin)
    block = read_block(answer, origin)
    try:
        if len({item.hash.lower() for item in block.tx}) < len(block.tx):
            raise ValueError("a transaction occurs twice")
        runs = None if application_logs is None else _runs(application_logs, origin)
        if verify:
            _check(block)
        return _rows(block, runs, verify=verify, origin=origin)
    except ValueError as exc:
        raise BadBlock(str(exc), origin=origin, block=block.index) from exc
    except RecursionError:  # in what is kept as given: witnesses, the state of a notification
        raise BadBlock("nested too deeply to be read", origin=origin, block=block.index) from None


@dataclass(frozen=True, slots=True)
class _Place:
    """Where rows stand: the block's number and time."""

    number: int
    time: datetime


def _runs(logs: Sequence[Json], origin: str) -> dict[str, Execution]:
    """The run of each transaction by its hash. Logs of blocks are passed over."""
    runs: dict[str, Execution] = {}
    for answer in logs:
        found = read_application_log(answer, origin)
        if found.txid is None:
            continue
        executions = [each for each in found.executions if each.trigger == "Application"]
        if len(executions) != 1:
            raise ValueError(f"{found.txid[:66]} has {len(executions)} runs, not one")
        runs[hash32(found.txid)] = executions[0]
    return runs


def _check(block: Block) -> None:
    """Recompute and compare all hashes of a block."""
    for index, item in enumerate(block.tx):
        try:
            computed = payloads.shown(payloads.transaction(item))
        except ValueError as exc:
            raise ValueError(f"transaction {index}: {exc}") from None
        if computed != item.hash.lower():
            raise ValueError(f"transaction {index} does not hash to {item.hash[:66]}")
    root = payloads.merkle_root([item.hash for item in block.tx])
    if root != block.merkleroot.lower():
        raise ValueError(f"merkleroot is {block.merkleroot[:66]}, the content gives {root}")
    if payloads.shown(payloads.header(block)) != block.hash.lower():
        raise ValueError("the header does not hash to the block's hash")


def _rows(
    block: Block, runs: dict[str, Execution] | None, *, verify: bool, origin: str
) -> BlockRows:
    if block.time not in _TIMES_MS:
        raise ValueError(f"time {block.time} ms is beyond the year 2261")
    place = _Place(_uint32(block.index, "index"), _EPOCH + timedelta(milliseconds=block.time))
    ran = [(item, None if runs is None else _run_of(item, runs)) for item in block.tx]
    return BlockRows(
        number=block.index,
        block_hash=hash32(block.hash),
        parent_hash=hash32(block.previousblockhash),
        timestamp=block.time // 1000,
        block=_block_row(block, place, "transactions" if verify else "none"),
        transactions=[
            _transaction_row(item, run, place, index) for index, (item, run) in enumerate(ran)
        ],
        logs=None if runs is None else _log_rows(ran, place),
        contracts=_contract_rows(ran, place),
        origin=origin,
    )


def _run_of(item: Transaction, runs: dict[str, Execution]) -> Execution:
    if (run := runs.get(item.hash.lower())) is None:
        raise ValueError(f"the application log of transaction {item.hash[:66]} is missing")
    return run


def _block_row(block: Block, place: _Place, level: str) -> Row:
    header = {
        "version": _uint32(block.version, "version"),
        "nonce": block.nonce,
        "primary": _uint32(block.primary, "primary"),
        "nextconsensus": block.nextconsensus,
        "witnesses": _given(block.witnesses),
    }
    payloads.script_hash(block.nextconsensus)
    return (
        place.number,
        hash32(block.hash),
        hash32(block.previousblockhash),
        place.time,
        block.nextconsensus,
        len(block.tx),
        None,
        payloads.fee(sum(payloads.fee(item.sysfee) for item in block.tx)),
        None,
        None,
        _size(block.size),
        None,
        hash32(block.merkleroot),
        None,
        None,
        header,
        level,
    )


def _transaction_row(item: Transaction, run: Execution | None, place: _Place, index: int) -> Row:
    payloads.script_hash(item.sender)
    return (
        hash32(item.hash),
        item.sender,
        None,
        0,
        None,
        None,
        payloads.fee(item.sysfee),
        _uint32(item.nonce, "nonce"),
        "0x" + payloads.script(item.script).hex(),
        "failed" if run is not None and _faulted(run) else "confirmed",
        place.number,
        place.time,
        index,
        *(None,) * 10,
        _envelope(item, run),
    )


def _envelope(item: Transaction, run: Execution | None) -> dict[str, Any]:
    """What has no column of its own; with an application log, how the run went."""
    envelope: dict[str, Any] = {
        "version": _uint32(item.version, "version"),
        "size": _size(item.size),
        "netfee": str(payloads.fee(item.netfee)),
        "validuntilblock": _uint32(item.validuntilblock, "validuntilblock"),
        "signers": _given(item.signers),
        "attributes": _given(item.attributes),
        "witnesses": _given(item.witnesses),
    }
    if run is not None:
        envelope["vmstate"] = _printable(run.vmstate)
        envelope["gasconsumed"] = str(payloads.fee(run.gasconsumed))
        envelope["exception"] = _printable(run.exception)
    return envelope


def _faulted(run: Execution) -> bool:
    """HALT is success, FAULT is not; a third word is not guessed at."""
    if run.vmstate not in ("HALT", "FAULT"):
        raise ValueError(f"vmstate {run.vmstate[:60]!r} is neither HALT nor FAULT")
    return run.vmstate == "FAULT"


def _log_rows(ran: Iterable[tuple[Transaction, Execution | None]], place: _Place) -> list[Row]:
    rows: list[Row] = []
    for index, (item, run) in enumerate(ran):
        if run is None or _faulted(run):
            continue
        named = item.hash.lower()
        for said in run.notifications:
            event = _printable(said.eventname)
            if len(event) > _MAX_EVENT_NAME:
                raise ValueError(f"transaction {index}: an event's name has {len(event)} letters")
            where = (place.number, len(rows), place.time, named, index, address(said.contract))
            state = msgspec.json.encode(said.state).decode()
            rows.append((*where, event, None, None, None, state))
    return rows


def _contract_rows(ran: Iterable[tuple[Transaction, Execution | None]], place: _Place) -> list[Row]:
    """Contracts that were deployed, told by what ContractManagement said."""
    created: dict[str, Row] = {}
    for item, run in ran:
        if run is None or _faulted(run):
            continue
        for said in run.notifications:
            if said.contract.lower() == CONTRACT_MANAGEMENT and said.eventname == "Deploy":
                at = _deployed(said.state)
                created[at] = (at, item.sender, place.time, item.hash.lower(), place.number)
    return list(created.values())


def _deployed(state: Any) -> str:
    match state:
        case {"value": [{"value": str(text)}, *_]} if len(raw := payloads.script(text)) == 20:
            return "0x" + raw[::-1].hex()
        case _:
            raise ValueError("an event Deploy names no contract")


def _uint32(value: int, name: str) -> int:
    if not 0 <= value < 1 << 32:
        raise ValueError(f"{name} {value} is not in 0 to 2^32-1")
    return value


def _size(value: int | None) -> int | None:
    return None if value is None else _uint32(value, "size")


def _given(raw: msgspec.Raw) -> Any:
    return _printable(msgspec.json.decode(raw))


def _printable(value: Any) -> Any:
    """The value without NUL, which the database's text cannot hold (a fault's message may)."""
    match value:
        case str():
            return value.replace("\0", "\ufffd")
        case list():
            return [_printable(each) for each in cast("list[Any]", value)]
        case dict():
            pairs = cast("dict[str, Any]", value).items()
            return {_printable(name): _printable(each) for name, each in pairs}
        case _:
            return value
