"""Is what was seen a difference? The store goes on while it is compared with a snapshot.

What it holds of a version above the snapshot is not to be judged by it, and what is missing may
have been deleted since. A row that PostgreSQL has untouched in two snapshots (its `xmin` is the
same) and that was not there in between is missing; a version that a later snapshot has not reached
was never committed. All else stays in doubt, and is looked at again.
"""

from __future__ import annotations

from dataclasses import dataclass

from neolayer.relay.comparing.report import Kind


@dataclass(frozen=True, slots=True)
class Candidate:
    """A difference that may be one: what was seen, and of the source's row its mark."""

    kind: Kind
    version: int | None = None
    mark: str | None = None

    def is_certain(self, version: int) -> bool:
        """Whether the store's row can be judged by the source's at that version."""
        return self.version is not None and self.version <= version

    def is_wrong_still(self, version: int) -> bool:
        """The same of a row that was put right before that version."""
        return self.kind is Kind.MISSING or self.is_certain(version)

    def judged(self, earlier: Candidate | None, version: int) -> Kind | None:
        """What kind of difference it is, by what an earlier snapshot showed; None while it cannot
        be told."""
        if self.is_certain(version):
            return self.kind
        if earlier is None:
            return None
        if earlier.version is not None and earlier.version > version:
            return Kind.AHEAD
        if self.kind is Kind.MISSING is earlier.kind and self.mark == earlier.mark:
            return Kind.MISSING
        return None
