"""Who did what, written in the transaction of the change: any room may call this."""

from __future__ import annotations

from neolayer.audit.changes import NotAuditable
from neolayer.audit.entries import Action, Entry, Writer, append
from neolayer.audit.reading import AuditTrail, StoredEntry

__all__ = ["Action", "AuditTrail", "Entry", "NotAuditable", "StoredEntry", "Writer", "append"]
