"""How long sessions last is the configuration's."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError
from tests.fixtures.fix_api import Api

from neolayer.identity import SessionPolicy
from neolayer.settings import ServeSettings, SessionSettings, Settings


@pytest.fixture
def api_settings(tmp_path: Path) -> Settings:
    """Two minutes a token, half an hour a session."""
    return Settings(
        data_dir=tmp_path,
        serve=ServeSettings(tries_per_minute=1_000_000),
        sessions=SessionSettings(access_minutes=2, absolute_hours=0.5, grace_seconds=0),
    )


def test_the_defaults_are_the_policys() -> None:
    """Configuration and room agree on what holds where nothing is said; an access token is good for
    a day at most."""
    assert SessionPolicy.of(SessionSettings()) == SessionPolicy()
    with pytest.raises(ValidationError):
        SessionSettings(access_minutes=1441)


async def test_tokens_last_as_long_as_the_configuration_says(api: Api) -> None:
    """From a login to the answer of a refresh; without a grace a token that comes again is a
    replay."""
    ann = await api.person(await api.tenant(), "ann")
    (session,) = (await ann.ask("GET", "/v1/sessions")).json()
    begun = datetime.fromisoformat(session["created_at"])
    for name, length in (("access_expires_at", 2), ("expires_at", 30)):
        ends = datetime.fromisoformat(ann.tokens[name])
        assert abs(ends - begun - timedelta(minutes=length)) < timedelta(seconds=30)
    body = {"refresh_token": ann.tokens["refresh_token"]}
    renewed = (await api.client.post("/v1/sessions/refresh", json=body)).json()
    access_ends = datetime.fromisoformat(renewed["access_expires_at"])
    assert access_ends - begun < timedelta(minutes=2.5)
    assert (await api.client.post("/v1/sessions/refresh", json=body)).status_code == 401
