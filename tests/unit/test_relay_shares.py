"""The room of dead letters is shared: whoever has the most gives way to whoever has fewer."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from neolayer.relay.operations.shares import Shares, Tenant

TENANTS: st.SearchStrategy[Tenant] = st.sampled_from(["ann", "bob", "", "eve", None])


@given(st.integers(0, 12), st.lists(TENANTS, max_size=60))
def test_C8_nobody_has_fewer_letters_than_their_share_for_those_of_another(
    room: int, coming: list[Tenant]
) -> None:
    """However letters come, in one batch or in many: the room is used up before anybody is refused,
    nobody who came is two behind another, and each letter is kept, given up or counted."""
    held, missing = Counter[Tenant](), 0
    for batch in (coming[::3], coming[1::3], coming[2::3]):
        shares = Shares(room, held)
        let_in = Counter(tenant for tenant in batch if shares.let_in(tenant))
        held = Counter({k: n for k, n in (held + let_in - shares.evicted).items() if n})
        missing += shares.missing
    assert sum(held.values()) == min(room, len(coming)) == len(coming) - missing
    came = Counter(coming)
    most = max(held.values(), default=0)
    assert all(held[tenant] >= min(most - 1, came[tenant]) for tenant in came)
