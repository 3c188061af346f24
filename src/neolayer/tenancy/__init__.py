"""Who is asking: tenants, principals, and the transaction that is bound to one of each."""

from __future__ import annotations

from neolayer.tenancy.context import Kind, Principal
from neolayer.tenancy.database import (
    CoreDatabase,
    Scope,
    TenantDatabase,
    Transaction,
    open_core,
    open_database,
)
from neolayer.tenancy.model import (
    NOBODYS,
    Allowance,
    IdentifierTaken,
    Limit,
    Tenant,
    TenantLimitExceeded,
    TenantNotFound,
    Tier,
)
from neolayer.tenancy.searching import FoundDocument, FoundUser, Search
from neolayer.tenancy.tenants import Tenants

__all__ = [
    "NOBODYS",
    "Allowance",
    "CoreDatabase",
    "FoundDocument",
    "FoundUser",
    "IdentifierTaken",
    "Kind",
    "Limit",
    "Principal",
    "Scope",
    "Search",
    "Tenant",
    "TenantDatabase",
    "TenantLimitExceeded",
    "TenantNotFound",
    "Tenants",
    "Tier",
    "Transaction",
    "open_core",
    "open_database",
]
