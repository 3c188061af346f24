"""The private keys that are held here: opened for one call, and each use written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from uuid import UUID

from neolayer import audit
from neolayer.engines.postgres.queries import load_queries
from neolayer.keys import Keyring, KeyringError
from neolayer.tenancy import Scope
from neolayer.wallets.model import KeyNotHeld, Wallet, WalletNotFound
from neolayer.wallets.private_keys import PrivateKey
from neolayer.wallets.rows import known_wallet, note

sql = load_queries(__name__)


@dataclass(frozen=True, slots=True)
class HeldKeys:
    """The keys of one tenant's wallets."""

    scope: Scope
    keyring: Keyring

    async def sealed(self, wallet_id: UUID) -> tuple[Wallet, str]:
        """A wallet and its sealed key. Raises WalletNotFound, KeyNotHeld."""
        row = await self.scope.one(sql.sealed_key, {"wallet_id": wallet_id})
        wallet = known_wallet(None if row is None else row[:-1])
        if row is None or row[-1] is None:
            raise KeyNotHeld(
                f"the key of {wallet.shown_address} is not held here ({wallet.custody})"
            )
        return wallet, row[-1]

    async def open(self, wallet: Wallet, sealed: str, operation: str) -> PrivateKey:
        """The key, for the running call only. A refusal is audited, because it may be an attack."""
        bound_to = binding(self.scope.tenant, wallet.network.id, wallet.address)
        try:
            raw = await self.keyring.open(sealed, bound_to=bound_to)
        except KeyringError as exc:
            async with self.scope.transaction() as tx:
                changes = {"operation": operation}
                note(tx, "EXECUTE", wallet.id, changes, error=f"{type(exc).__name__}")
            raise
        return PrivateKey(raw, wallet.network.kind)

    async def used(
        self,
        wallet: Wallet,
        operation: str,
        changes: dict[str, Any],
        *,
        action: audit.Action = "EXECUTE",
    ) -> None:
        """Record a use of the key. Raises WalletNotFound where the wallet went away meanwhile."""
        async with self.scope.transaction() as tx:
            if await tx.one(sql.hold_wallet, {"wallet_id": wallet.id}) is None:
                raise WalletNotFound
            note(tx, action, wallet.id, {"operation": operation, **changes})


def binding(tenant: UUID | None, network_id: UUID, address: str) -> dict[str, str]:
    """What a wallet's sealed key is bound to; for whoever re-wraps keys."""
    return {"tenant": str(tenant), "network": str(network_id), "address": address}
