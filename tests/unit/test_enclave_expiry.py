"""When an acceptance ends: with the first of everything that it rests on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import dcap_qvl
import pytest
from tests.fixtures import quotes
from tests.fixtures.quotes import SGX, THEN, TOLERANT, quote

from neolayer.enclave import verifying
from neolayer.enclave.collateral import read_collateral
from neolayer.enclave.quotes import read_quote
from neolayer.enclave.reasons import Reason

FIELDS = ("earliest_expiration_date", "qe_iden_earliest_expiration_date")


def judged(monkeypatch: pytest.MonkeyPatch, **ends: datetime) -> verifying.Verdict:
    """The verdict on a real quote for which the verifier finds these ends among what it read."""

    class Verifier:
        def verify_with_policy(self, *given: Any) -> Any:
            found = dcap_qvl.QuoteVerifier().verify_with_policy(*given)
            claims = json.loads(found.to_json())
            for name, end in ends.items():
                assert name in claims
                claims[name] = int(end.timestamp())
            return SimpleNamespace(to_json=lambda: json.dumps(claims))

    told = {name: getattr(dcap_qvl, name) for name in ("QuotePolicy", "QuoteCollateralV3")}
    monkeypatch.setattr(verifying, "dcap_qvl", SimpleNamespace(**told, QuoteVerifier=Verifier))
    collateral = read_collateral(quotes.collateral(SGX))
    return verifying.judge(read_quote(quote(SGX)), collateral, TOLERANT, at=THEN)


@pytest.mark.parametrize("name", FIELDS)
def test_an_acceptance_ends_with_the_quotes_own_certificates(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The machine's certificates come in the quote and are in none of the collateral's dates."""
    end = THEN + timedelta(hours=3)
    verdict = judged(monkeypatch, **{name: end})
    assert (verdict.reason, verdict.expires_at) == (Reason.ACCEPTED, end)
    assert verdict.expires_because == "certificates"
    over = judged(monkeypatch, **{name: THEN})
    assert (over.reason, over.expires_at) == (Reason.COLLATERAL_EXPIRED, None)
    assert over.detail is not None and over.detail.startswith("certificates held until")


def test_certificates_that_end_later_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of the other parts decides, under its own name."""
    late = dict.fromkeys(FIELDS, datetime(2040, 1, 1, tzinfo=UTC))
    for verdict in (judged(monkeypatch), judged(monkeypatch, **late)):
        assert verdict.expires_at == datetime(2025, 7, 19, 10, 1, 18, tzinfo=UTC)
        assert verdict.expires_because == "qe_identity"
