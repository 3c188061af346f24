"""`neolayer wallets`: a tenant's wallets, their keys in and out, and what they did on chain."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal
from uuid import UUID

import msgspec
from cyclopts import App, Parameter

from neolayer.cli.output import say, write_json, write_table
from neolayer.cli.root import app as root
from neolayer.cli.root import invocation
from neolayer.cli.secret_input import read_secret
from neolayer.cli.values import Bigint, Page
from neolayer.cli.wallet_documents import document, fields, new_private_file
from neolayer.cli.within_tenant import TenantOption, tenant_scope
from neolayer.errors import InvalidInput
from neolayer.platform import keyring
from neolayer.wallets import Movement, Wallet, Wallets

app = App(name="wallets", help="A tenant's wallets: addresses, keys, transactions and balances.")
root.command(app)

AsJson = Annotated[bool, Parameter(name="--json", help="Write JSON to stdout.")]
NetworkOption = Annotated[str, Parameter(name="--network", help="Name of the network.")]
SomeNetwork = Annotated[
    str | None, Parameter(name="--network", help="Network of the wallet, where it is an address.")
]
Name = Annotated[str | None, Parameter(name="--name", help="What people call the wallet.")]
Type = Annotated[
    str | None, Parameter(name="--type", help="A word to file it under, such as hot or cold.")
]
PasswordFile = Annotated[
    Path | None,
    Parameter(name="--password-file", help="Read the password from this file."),
]
After = Annotated[str | None, Parameter(name="--after", help="Where the page before ended.")]
WalletText = Annotated[str, Parameter(help="Id of the wallet, or its address with --network.")]
_DECIMALS = {"evm": (18, "coins"), "neo-n3": (8, "GAS")}


@app.command
async def create(
    *,
    tenant: TenantOption,
    network: NetworkOption,
    name: Name = None,
    wallet_type: Type = None,
    as_json: AsJson = False,
) -> None:
    """Make a wallet with a new key, which is sealed and stays here.

    Example: neolayer wallets create --tenant acme --network ethereum --name Treasury
    """
    async with _opened(tenant) as wallets:
        made = await wallets.create(network=network, name=name, wallet_type=wallet_type)
    _answer(made, as_json=as_json)


@app.command(name="import")
async def import_(
    keystore: Annotated[
        Path | None,
        Parameter(help="A keystore v3, or NEP-2 text on Neo N3; without it a key is asked for."),
    ] = None,
    /,
    *,
    tenant: TenantOption,
    network: NetworkOption,
    name: Name = None,
    wallet_type: Type = None,
    password_file: PasswordFile = None,
    as_json: AsJson = False,
) -> None:
    """Take over a key: from a keystore and its password, or a private key from prompt or pipe.

    A private key is 64 hexadecimal digits, or WIF on Neo N3.

    Example: neolayer wallets import keystore.json --tenant acme --network ethereum
    """
    labels: dict[str, Any] = {"network": network, "name": name, "wallet_type": wallet_type}
    if keystore is None:
        key = read_secret("Private key")
        async with _opened(tenant) as wallets:
            made = await wallets.import_key(private_key=key, **labels)
    else:
        text = document(keystore)
        password = read_secret("Password", password_file)
        async with _opened(tenant) as wallets:
            made = await wallets.import_keystore(keystore=text, password=password, **labels)
    _answer(made, as_json=as_json)


@app.command
async def export(
    wallet: WalletText,
    file: Annotated[Path, Parameter(help="Where the keystore is written; must not exist.")],
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    kdf: Annotated[
        Literal["scrypt", "pbkdf2"], Parameter(help="How the password becomes a key.")
    ] = "scrypt",
    password_file: PasswordFile = None,
) -> None:
    """Write a wallet's key to a file that only you can read, under a password.

    It is a keystore v3, or on Neo N3 NEP-2 text.

    Example: neolayer wallets export 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a key.json --tenant acme
    """
    password = read_secret("Password", password_file, twice=True)
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        with new_private_file(file) as out:
            out.write(await wallets.export_keystore(found.id, password=password, kdf=kdf) + "\n")
    say(f"The key of {found.shown_address} is in {file}, under that password.")


@app.command
async def watch(
    address: Annotated[str, Parameter(help="Its address on the network.")],
    /,
    *,
    tenant: TenantOption,
    network: NetworkOption,
    public_key: Annotated[str | None, Parameter(help="Its public key, as hex.")] = None,
    name: Name = None,
    wallet_type: Type = None,
    as_json: AsJson = False,
) -> None:
    """Add a wallet that is only looked at; its key is somewhere else.

    Example: neolayer wallets watch 0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed --tenant acme
    --network ethereum
    """
    async with _opened(tenant) as wallets:
        made = await wallets.watch(
            network=network,
            address=address,
            public_key=public_key,
            name=name,
            wallet_type=wallet_type,
        )
    _answer(made, as_json=as_json)


@app.command
async def hardware(
    public_key: Annotated[str, Parameter(help="Its public key, as hex.")],
    /,
    *,
    tenant: TenantOption,
    network: NetworkOption,
    name: Name = None,
    wallet_type: Type = None,
    as_json: AsJson = False,
) -> None:
    """Add a wallet whose key is in a device, by its public key (hex).

    Example: neolayer wallets hardware "$PUBLIC_KEY" --tenant acme --network ethereum --name Ledger
    """
    async with _opened(tenant) as wallets:
        made = await wallets.add_hardware(
            network=network, public_key=public_key, name=name, wallet_type=wallet_type
        )
    _answer(made, as_json=as_json)


@app.command(name="list")
async def list_(
    *,
    tenant: TenantOption,
    network: Annotated[str | None, Parameter(help="Only wallets of this network.")] = None,
    limit: Annotated[Page, Parameter(help="How many at most.")] = 100,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """Show wallets, oldest first.

    Example: neolayer wallets list --tenant acme --network ethereum
    """
    async with _opened(tenant) as wallets:
        page = await wallets.list(network=network, after=after, limit=limit)
    if as_json:
        write_json({"items": [each.plain() for each in page.items], "after": page.after})
        return
    columns = ("id", "network", "address", "name", "type", "custody")
    write_table(
        columns,
        [
            (w.id, w.network.name, w.shown_address, w.name, w.wallet_type, w.custody)
            for w in page.items
        ],
    )
    _say_more(page.after)


@app.command
async def show(
    wallet: WalletText,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    as_json: AsJson = False,
) -> None:
    """Show one wallet; never its key.

    Example: neolayer wallets show 0x9d8A62f656a8d1615C1294fd71e9CFb3E4855A4F --tenant acme
    --network ethereum
    """
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
    _answer(found, as_json=as_json)


@app.command
async def rename(
    wallet: WalletText,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    name: Name = None,
    wallet_type: Type = None,
    as_json: AsJson = False,
) -> None:
    """Give a wallet another name, or file it under another type.

    Example: neolayer wallets rename 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a --tenant acme --name Old
    """
    changes: dict[str, Any] = {"name": name, "wallet_type": wallet_type}
    given = {key: value for key, value in changes.items() if value is not None}
    if not given:
        raise InvalidInput("nothing is to change", hint="give --name or --type")
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        changed = await wallets.update(found.id, **given)
    _answer(changed, as_json=as_json)


@app.command
async def delete(
    wallet: WalletText,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    destroy_key: Annotated[
        bool, Parameter(help="Also where its key is held here, which is then gone.")
    ] = False,
) -> None:
    """Take a wallet away; what is stored of the chain stays.

    Example: neolayer wallets delete 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a --tenant acme
    """
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        await wallets.delete(found.id, destroy_key=destroy_key)
    say(f"The wallet {found.shown_address} on {found.network.name} is deleted.")


@app.command
async def transactions(
    wallet: WalletText,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    limit: Annotated[Page, Parameter(help="How many at most.")] = 50,
    after: After = None,
    as_json: AsJson = False,
) -> None:
    """Show what a wallet sent and received, newest first.

    Example: neolayer wallets transactions 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a --tenant acme
    """
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        page = await wallets.transactions(found.id, after=after, limit=limit)
    if as_json:
        write_json({"items": [_movement(each) for each in page.items], "after": page.after})
        return
    columns = ("", "transaction", "value", "fee", "status", "block", "time")
    kind = found.network.kind
    write_table(
        columns,
        [
            (
                m.direction,
                m.transaction_hash,
                _coins(m.value, kind),
                None if m.fee is None else _coins(m.fee, kind),
                m.status,
                m.block_number,
                m.block_timestamp,
            )
            for m in page.items
        ],
    )
    _say_more(page.after)


@app.command
async def balance(
    wallet: WalletText,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    block: Annotated[Bigint | None, Parameter(help="Up to this block (default: the head).")] = None,
    as_json: AsJson = False,
) -> None:
    """Add up what the stored transactions moved; blocks that are missing are told.

    Example: neolayer wallets balance 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a --tenant acme
    """
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        sums = await wallets.balance(found.id, as_of_block=block)
    amounts = {"amount": sums.amount, "received": sums.received, "sent": sums.sent}
    amounts["fees"] = sums.fees
    if as_json:
        counts = ("as_of_block", "transactions_in", "transactions_out", "fees_unknown")
        facts = {name: getattr(sums, name) for name in (*counts, "missing_blocks")}
        write_json({**{name: str(value) for name, value in amounts.items()}, **facts})
        return
    unit = _DECIMALS[found.network.kind][1]
    rows = [(name, _coins(value, found.network.kind)) for name, value in amounts.items()]
    write_table(("", unit), [*rows, ("as of block", sums.as_of_block)])
    if sums.missing_blocks:
        say(f"{sums.missing_blocks} blocks up to there are not stored: this is no account balance.")
    if sums.fees_unknown:
        say(f"The fee of {sums.fees_unknown} transactions is not known whole.")


@app.command
async def sign(
    wallet: WalletText,
    transaction: Annotated[
        Path | None, Parameter(help="JSON file of the transaction (default: stdin).")
    ] = None,
    /,
    *,
    tenant: TenantOption,
    network: SomeNetwork = None,
    as_json: AsJson = False,
) -> None:
    """Sign a transaction; the key stays sealed, nothing is sent, the signature is audited.

    On EVM networks it is a JSON-RPC transaction object with nonce and fees; on Neo N3 one as nodes
    write it, without witnesses. The raw transaction goes to stdout.

    Example: neolayer wallets sign 7c1e9a52-3b0d-4f86-a1d7-52e08b64f93a tx.json --tenant acme
    """
    asked = fields(document(transaction))
    async with _opened(tenant) as wallets:
        found = await _find(wallets, wallet, network)
        signed = await wallets.sign_transaction(found.id, asked)
    if as_json or signed.raw is None:
        write_json(msgspec.to_builtins(signed))
    else:
        say(f"signed {signed.transaction_hash}")
        print(signed.raw)


@asynccontextmanager
async def _opened(tenant: str) -> AsyncGenerator[Wallets]:
    async with tenant_scope(tenant) as (_, scope), keyring(invocation().settings) as opened:
        yield Wallets(scope, opened)


async def _find(wallets: Wallets, text: str, network: str | None) -> Wallet:
    """A wallet by its id, or by its address on a network."""
    try:
        return await wallets.get(UUID(text))
    except ValueError:
        if network is None:
            raise InvalidInput(
                f"{text[:60]!r} is no wallet's id", hint="an address needs its --network"
            ) from None
    return await wallets.find(network=network, address=text)


def _answer(wallet: Wallet, *, as_json: bool) -> None:
    if as_json:
        write_json(wallet.plain())
    else:
        write_table(("", ""), [(k, v) for k, v in wallet.plain().items() if v is not None])


def _movement(item: Movement) -> dict[str, Any]:
    plain: dict[str, Any] = msgspec.to_builtins(item)
    return plain | {"value": str(item.value), "fee": None if item.fee is None else str(item.fee)}


def _coins(amount: int, kind: str) -> str:
    """An amount of the smallest unit in whole coins, exactly."""
    decimals = _DECIMALS[kind][0]
    whole, part = divmod(abs(amount), 10**decimals)
    digits = f"{part:0{decimals}}".rstrip("0")
    return f"{'-' if amount < 0 else ''}{whole}{'.' if digits else ''}{digits}"


def _say_more(after: str | None) -> None:
    if after is not None:
        say(f"There are more: --after {after}")
