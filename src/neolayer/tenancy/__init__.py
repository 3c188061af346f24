"""Who is asking: tenants, principals, and the transaction that is bound to one of each."""

from __future__ import annotations

from neolayer.tenancy.context import Principal
from neolayer.tenancy.database import CoreDatabase, Scope, Transaction, open_core

__all__ = ["CoreDatabase", "Principal", "Scope", "Transaction", "open_core"]
