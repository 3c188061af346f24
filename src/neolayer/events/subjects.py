"""The keys of data subjects: one a person and tenant, sealed by the keyring.

    keys = await acme.subjects.keys([customer])     # those that are there
    await acme.subjects.erase(customer)             # every personal value of theirs is gone

Keys are looked up for every operation and never kept: once a row is deleted, no process opens what
it sealed. What was in the memory of a call that had begun before may be read once more.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from neolayer.audit import Entry, append
from neolayer.engines.postgres.queries import load_queries
from neolayer.keys import Keyring, key_id_of
from neolayer.keys.keyset import new_key
from neolayer.tenancy import Scope

QUERIES = load_queries(__name__, "subjects.sql")


@dataclass(frozen=True, slots=True)
class Subjects:
    """The keys of one tenant's data subjects. `scope` is one of the core database."""

    scope: Scope
    keyring: Keyring

    async def keys(self, subjects: Collection[UUID]) -> dict[UUID, bytes]:
        """The keys of those that have one. Raises KeyringError."""
        if not subjects:
            return {}
        rows = await self.scope.fetch(QUERIES.subject_keys, {"subjects": list(subjects)})
        return {
            subject: await self.keyring.open(sealed, bound_to=self._binding(subject))
            for subject, sealed in rows
        }

    async def keys_for_writing(self, subjects: Collection[UUID]) -> dict[UUID, bytes]:
        """The same, with keys made for those that have none. Raises KeyringError."""
        found = await self.keys(subjects)
        missing = [subject for subject in subjects if subject not in found]
        if not missing:
            return found
        sealed = [
            await self.keyring.seal(new_key(), bound_to=self._binding(subject))
            for subject in missing
        ]
        await self.scope.fetch(
            QUERIES.add_subject_keys,
            {
                "tenant": self.scope.tenant,
                "subjects": missing,
                "sealed": sealed,
                "keys": [key_id_of(text) for text in sealed],
            },
        )
        # Somebody else may have been first: theirs counts.
        return found | await self.keys(missing)

    async def erase(self, subject: UUID) -> bool:
        """Delete a subject's key, for ever; whether there was one. It is noted in the audit trail.

        From then on personal values of theirs read as `Erased`, wherever they are copied.
        """
        async with self.scope.transaction() as tx:
            deleted = await tx.one(QUERIES.delete_subject_key, {"subject": subject})
            if deleted is not None:
                append(tx, Entry("DELETE", "subject_key", resource_id=str(subject)))
        return deleted is not None

    def _binding(self, subject: UUID) -> dict[str, str]:
        return {"tenant": str(self.scope.tenant), "subject": str(subject)}
