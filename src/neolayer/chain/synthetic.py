"""A chain for tests, benchmarks and demonstrations. Synthetic: it says chain id 1337 everywhere.

Signatures, hashes, roots, blooms and contract addresses are right, so whatever checks real blocks
checks these. What is not simulated: execution (state roots are made up, gas is a fixed price a kind
of call) and the base fee, which stays. With `reorg_at` a second branch forks off and wins, as when
a node changes its mind: some transactions of the lost blocks are in it too, some were replaced by
others of the same sender and nonce, some never came back.

    chain = make_chain(blocks=20, transactions_per_block=5, reorg_at=10)
    first blocks 1 to 12 are on the node (`chain.first`), then 10 to 20 replace 10 to 12
    (`chain.fork`); what stands in the end is `chain.canonical`, 1 to 20.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random

import msgspec

from neolayer.chain.synthetic_blocks import SECONDS_PER_BLOCK, Mined, assemble
from neolayer.chain.synthetic_transactions import (
    TOKENS,
    Account,
    Order,
    Signed,
    creation_order,
    ether_order,
    make_accounts,
    sign_order,
    token_order,
)
from neolayer.chain.trie import keccak
from neolayer.errors import ChainError

_GENESIS_HASH = keccak(b"neolayer synthetic genesis")
_SENDERS = 40
_KINDS = (2, 0, 2, 1, 2, 4, 0, 2)


@dataclass(frozen=True)
class SyntheticChain:
    """`first` is the branch seen first; `fork` the one that replaces its end, empty without one.

    Of the transactions in the blocks that `fork` replaces, by hash: `reincluded` are in `fork` too,
    `replaced` gives the one in `fork` with the same sender and nonce, `dropped` are nowhere.
    """

    first: list[Mined]
    fork: list[Mined] = field(default_factory=list[Mined])
    reincluded: tuple[str, ...] = ()
    replaced: Mapping[str, str] = field(default_factory=dict[str, str])
    dropped: tuple[str, ...] = ()

    @property
    def orphaned(self) -> list[Mined]:
        """The blocks of `first` that `fork` replaces."""
        return self.first[self._common :]

    @property
    def canonical(self) -> list[Mined]:
        """What stands in the end, in order."""
        return self.first[: self._common] + self.fork

    @property
    def _common(self) -> int:
        if not self.fork:
            return len(self.first)
        return int(self.fork[0].block["number"], 16) - int(self.first[0].block["number"], 16)


def make_chain(
    *,
    blocks: int,
    transactions_per_block: int,
    seed: int = 1,
    reorg_at: int | None = None,
    reorg_depth: int = 3,
) -> SyntheticChain:
    """A chain that ends at block number `blocks`, counted from 1; the same for the same arguments.

    `reorg_at` is the number of the first block that is replaced, `reorg_depth` how many are.
    Raises ChainError where the second branch would not be longer, or without coincurve.
    """
    branch = _Branch(make_accounts(seed, _SENDERS + 1), Random(seed), transactions_per_block)  # noqa: S311
    if reorg_at is None:
        return SyntheticChain([branch.mine() for _ in range(blocks)])
    if reorg_at < 1 or reorg_depth < 1 or reorg_at + reorg_depth > blocks:
        raise ChainError(
            f"a branch of blocks {reorg_at} to {blocks} does not outgrow {reorg_depth} blocks"
        )
    common = [branch.mine() for _ in range(reorg_at - 1)]
    rival = branch.copy(Random(f"{seed} fork"))  # noqa: S311
    lost = [branch.mine() for _ in range(reorg_depth)]
    fates = _Fates(branch.signed[len(rival.signed) :])
    rival.take_over(fates)
    fork = [rival.mine() for _ in range(blocks - reorg_at + 1)]
    return SyntheticChain(
        common + lost, fork, tuple(fates.reincluded), fates.replaced, tuple(fates.dropped)
    )


def write_chain(folder: Path, chain: SyntheticChain) -> None:
    """Write the first branch to `folder`, the fork (if any) to a folder beside it, `<name>-fork`.

    A block is `block-<number>.json`, its receipts are `receipts-<number>.json`.
    """
    write_blocks(folder, chain.first)
    if chain.fork:
        write_blocks(folder.with_name(folder.name + "-fork"), chain.fork)


def write_blocks(folder: Path, blocks: Iterable[Mined]) -> None:
    """Write blocks and their receipts to files of `folder`, which is made where missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for block, receipts in blocks:
        number = int(block["number"], 16)
        (folder / f"block-{number:08}.json").write_bytes(msgspec.json.encode(block))
        (folder / f"receipts-{number:08}.json").write_bytes(msgspec.json.encode(receipts))


class _Fates:
    """What becomes of transactions whose blocks are replaced: a sender's all share a fate.

    In turn a sender's are all in the fork too; the first is replaced and the others are in it; none
    is. So nonces have no gaps. A sender of the last sort stays silent, or it would replace them.
    """

    def __init__(self, lost: Iterable[Signed]) -> None:
        self.queue: deque[Signed] = deque()
        self.reincluded: list[str] = []
        self.replaced: dict[str, str] = {}
        self.dropped: list[str] = []
        turn: dict[bytes, int] = {}
        replacing: set[bytes] = set()
        for signed in lost:
            sender = signed.order.sender.address
            fate = turn.setdefault(sender, len(turn)) % 3
            if fate == 2:
                self.dropped.append(signed.hash)
            elif fate == 1 and sender not in replacing:
                replacing.add(sender)
                self._replace(signed)
            else:
                self.reincluded.append(signed.hash)
                self.queue.append(signed)
        self.silent = {sender for sender, number in turn.items() if number % 3 == 2}

    def _replace(self, signed: Signed) -> None:
        """As wallets cancel: a payment of nothing to oneself, for a higher price."""
        old = signed.order
        new = ether_order(old.sender, old.nonce, 2, to=old.sender.address, value=0)
        other = sign_order(replace(new, price=2 * old.price, tip=2 * old.tip))
        self.replaced[signed.hash] = other.hash
        self.queue.append(other)


class _Branch:
    """Mines one block after the other; remembers nonces, and everything that it signed."""

    def __init__(self, accounts: list[Account], random: Random, transactions: int) -> None:
        *self._senders, self._authority = accounts
        self._random = random
        self._transactions = transactions
        self._nonces = {account.address: 0 for account in accounts}
        self._waiting: deque[Signed] = deque()
        self._serial = itertools.count()
        self._parent, self._number, self._late = _GENESIS_HASH, 0, 0
        self.signed: list[Signed] = []

    def copy(self, random: Random) -> _Branch:
        """A rival from here on: other choices, and each block a slot later."""
        rival = _Branch([*self._senders, self._authority], random, self._transactions)
        rival._nonces = dict(self._nonces)
        rival._serial = itertools.count(len(self.signed))
        rival._parent, rival._number, rival._late = self._parent, self._number, SECONDS_PER_BLOCK
        rival.signed = list(self.signed)
        return rival

    def take_over(self, fates: _Fates) -> None:
        """Mine these first, in order."""
        self._waiting = fates.queue
        self._senders = [one for one in self._senders if one.address not in fates.silent]
        for signed in fates.queue:
            self._nonces[signed.order.sender.address] = signed.order.nonce + 1

    def mine(self) -> Mined:
        """The next block."""
        content = [self._next() for _ in range(self._transactions)]
        self._number += 1
        mined = assemble(content, self._parent, self._number, self._late)
        self._parent = bytes.fromhex(mined.block["hash"][2:])
        return mined

    def _next(self) -> Signed:
        if self._waiting:
            signed = self._waiting.popleft()
        else:
            signed = sign_order(self._order(next(self._serial)))
        self.signed.append(signed)
        return signed

    def _order(self, serial: int) -> Order:
        """Senders in turn. One in 23 creates a contract, half of the others call a token."""
        sender = self._senders[serial % len(self._senders)]
        nonce = self._nonces[sender.address]
        self._nonces[sender.address] = nonce + 1
        kind = _KINDS[serial % len(_KINDS)]
        failed = serial % 19 == 11
        if serial % 23 == 7:
            order = creation_order(sender, nonce, kind, salt=self._random.getrandbits(256))
        elif failed or self._random.random() < 0.5:
            order = self._token_order(sender, nonce, kind)
        else:
            to, value = self._other().address, self._random.randrange(10**19)
            order = ether_order(sender, nonce, kind, to=to, value=value)
        if order.kind == 4:
            order = replace(order, authority=self._authority)
        return replace(order, failed=True, gas_used=order.gas) if failed else order

    def _token_order(self, sender: Account, nonce: int, kind: int) -> Order:
        token, to = self._random.choice(TOKENS), self._other().address
        amount = self._random.randrange(10**24)
        return token_order(sender, nonce, kind, token=token, to=to, amount=amount)

    def _other(self) -> Account:
        return self._random.choice(self._senders)
