"""The routes of sessions, users, roles, services, tenants and wallets: what people do all day."""

from __future__ import annotations

import asyncio
from pathlib import Path

import psycopg
import pyotp
import pytest
from tests.fixtures import quotes
from tests.fixtures.fix_api import PASSWORD, Api, until

from neolayer.api.app import ROUTERS
from neolayer.api.layer import PERMISSION
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.position import Position
from neolayer.settings import Settings

LOGIN = {"tenant": "acme", "name": "ann", "password": PASSWORD}


async def test_every_route_says_who_may_call_it(api: Api) -> None:
    """A permission, one's own things, operators, or nobody's: named at each handler."""
    handlers = [h for router in ROUTERS for route in router.routes for h in route.route_handlers]
    silent = [
        f"{sorted(h.http_methods)} {h.handler_name}"
        for h in handlers
        if PERMISSION not in h.opt
        and not h.opt.get("exclude_from_auth")
        and h.handler_name != "options_handler"
    ]
    assert silent == []
    assert len(handlers) > 40


async def test_a_session_from_login_to_logout(api: Api) -> None:
    """Log in, ask, refresh, log out: after that both tokens are worth nothing."""
    acme = await api.tenant("acme")
    ann = await api.person(acme, "ann", "owner")
    me = await ann.ask("GET", "/v1/users/me")
    assert (me.status_code, me.json()["username"]) == (200, "ann")
    body = {"refresh_token": ann.tokens["refresh_token"]}
    renewed = await api.client.post("/v1/sessions/refresh", json=body)
    assert renewed.status_code == 201
    ann.tokens = renewed.json()
    assert len((await ann.ask("GET", "/v1/sessions")).json()) == 1
    assert (await ann.ask("DELETE", "/v1/sessions/current")).status_code == 204
    (noted,) = await acme.audit.list(action="LOGOUT")
    assert noted.principal == f"user:{ann.user_id}"
    gone = await ann.ask("GET", "/v1/users/me")
    assert gone.status_code == 401
    assert gone.headers["www-authenticate"] == "Bearer"
    assert gone.headers["content-type"] == "application/problem+json"
    body = {"refresh_token": ann.tokens["refresh_token"]}
    assert (await api.client.post("/v1/sessions/refresh", json=body)).status_code == 401


async def test_E10_an_admin_does_not_act_on_an_owner(api: Api) -> None:
    """Neither name nor status nor sessions of an owner move for an admin; for another owner they
    do, and an admin may act on a member."""
    acme = await api.tenant("acme")
    olga, adam = await api.person(acme, "olga", "owner"), await api.person(acme, "adam", "admin")
    mona = await api.person(acme, "mona", "member")
    for changes in ({"username": "gone"}, {"status": "suspended"}, {"email": "a@example.com"}):
        refused = await adam.ask("PATCH", f"/v1/users/{olga.user_id}", json=changes)
        assert (refused.status_code, "missing" in refused.text) == (403, True)
    assert (await adam.ask("DELETE", f"/v1/sessions/of/{olga.user_id}")).status_code == 403
    assert (await olga.ask("GET", "/v1/users/me")).json()["username"] == "olga"
    assert (await adam.ask("DELETE", f"/v1/sessions/of/{mona.user_id}")).status_code == 204
    oscar = await api.person(acme, "oscar", "owner")
    assert (await oscar.ask("DELETE", f"/v1/sessions/of/{olga.user_id}")).status_code == 204


async def test_a_patch_of_a_person_is_all_or_nothing(api: Api) -> None:
    """One that fails in its last part changes nothing; one that succeeds is one audit entry."""
    acme = await api.tenant("acme")
    olga = await api.person(acme, "olga", "owner")
    ann, bob = await api.person(acme, "ann", "member"), await api.person(acme, "bob", "member")
    body = {"username": "anna", "email": "bob@example.com", "status": "suspended"}
    refused = await olga.ask("PATCH", f"/v1/users/{ann.user_id}", json=body)
    assert refused.status_code == 409
    assert (await ann.ask("GET", "/v1/users/me")).json()["username"] == "ann"
    body["email"] = "anna@example.com"
    changed = (await olga.ask("PATCH", f"/v1/users/{ann.user_id}", json=body)).json()
    assert {name: changed[name] for name in body} == body
    entries = await acme.audit.list(resource="user", resource_id=str(ann.user_id), action="UPDATE")
    assert [entry.changes for entry in entries] == [{"fields": ["email", "status", "username"]}]
    same = await olga.ask("PATCH", f"/v1/users/{bob.user_id}", json={})
    assert (same.status_code, same.json()["username"]) == (200, "bob")
    last = await olga.ask(
        "PATCH", f"/v1/users/{olga.user_id}", json={"username": "o", "status": "suspended"}
    )
    assert last.status_code == 409
    assert (await olga.ask("GET", "/v1/users/me")).json()["username"] == "olga"


async def test_D_a_forged_cursor_is_422(api: Api) -> None:
    """On every route that gives one, as a problem document."""
    olga = await api.person(await api.tenant("acme"), "olga", "owner")
    forged = ("forged", "WzAsMCwiMDAwMDAwMDAtMDAwMC0wMDAwLTAwMDAtMDAwMDAwMDAwMDAwIl0")
    for path in ("/v1/wallets", f"/v1/wallets/{olga.user_id}/transactions"):
        for after in forged:
            refused = await olga.ask("GET", path, params={"after": after})
            assert refused.status_code == 422
            assert refused.headers["content-type"] == "application/problem+json"
            assert "as it was given" in refused.json()["hint"]


async def test_a_second_factor_from_enrolment_to_login(api: Api) -> None:
    """From the first code on a login without one is refused, and a code opens once."""
    ann = await api.person(await api.tenant("acme"), "ann")
    unproved = await ann.ask("POST", "/v1/users/me/mfa", json={"password": "wrong"})
    assert unproved.status_code == 401
    begun = (await ann.ask("POST", "/v1/users/me/mfa", json={"password": PASSWORD})).json()
    totp = pyotp.TOTP(begun["secret"])
    confirmed = await ann.ask("POST", "/v1/users/me/mfa/confirm", json={"code": totp.now()})
    assert confirmed.status_code == 201, confirmed.text
    codes = confirmed.json()["codes"]
    assert (await api.client.post("/v1/sessions", json=LOGIN)).status_code == 401
    with_code = LOGIN | {"recovery_code": codes[0]}
    assert (await api.client.post("/v1/sessions", json=with_code)).status_code == 201
    assert (await api.client.post("/v1/sessions", json=with_code)).status_code == 401


async def test_E5_ones_own_address_changes_with_a_proof(api: Api) -> None:
    """Letters that reset the password go there, so a session alone does not move it."""
    ann = await api.person(await api.tenant("acme"), "ann", "owner")
    moved = {"email": "ann@elsewhere.example"}
    without = await ann.ask("PATCH", f"/v1/users/{ann.user_id}", json=moved)
    assert without.status_code == 403
    wrong = await ann.ask("PUT", "/v1/users/me/email", json=moved | {"password": "wrong"})
    assert wrong.status_code == 401
    assert (await ann.ask("GET", "/v1/users/me")).json()["email"] == "ann@example.com"
    proved = await ann.ask("PUT", "/v1/users/me/email", json=moved | {"password": PASSWORD})
    assert (proved.status_code, proved.json()["email"]) == (200, "ann@elsewhere.example")
    assert proved.json()["email_verified"] is False


async def test_E3_absent_tenant_absent_user_and_wrong_password_answer_alike(api: Api) -> None:
    """The same status, body and headers, so that nobody learns who is here."""
    await api.person(await api.tenant("acme"), "ann")
    tries = [
        LOGIN | {"password": "wrong"},
        LOGIN | {"name": "bob", "password": "wrong"},
        LOGIN | {"tenant": "nowhere", "password": "wrong"},
        LOGIN | {"tenant": "NOT an identifier", "password": "wrong"},
    ]
    answers = [await api.client.post("/v1/sessions", json=body) for body in tries]
    assert [answer.status_code for answer in answers] == [401] * 4
    assert len({answer.text for answer in answers}) == 1
    assert len({frozenset(answer.headers.items()) for answer in answers}) == 1


async def test_E3_a_reset_tells_nothing_of_which_tenants_there_are(api: Api) -> None:
    """The answer to an absent tenant is stretched as that to an absent person is."""
    await api.person(await api.tenant("acme"), "ann")
    clock = asyncio.get_running_loop().time
    answers: list[tuple[int, str]] = []
    for tenant in ("acme", "nowhere", "NOT an identifier"):
        start = clock()
        body = {"tenant": tenant, "email": "nobody@example.com"}
        answer = await api.client.post("/v1/password-resets", json=body)
        assert clock() - start >= 0.1, tenant
        answers.append((answer.status_code, answer.text))
    assert set(answers) == {(202, answers[0][1])}


async def test_a_password_reset_by_letter(api: Api, api_settings: Settings) -> None:
    """The letter lies in the pick-up folder, readable by us only; the answer tells nobody."""
    ann = await api.person(await api.tenant("acme"), "ann")
    for address in ("ann@example.com", "nobody@example.com"):
        body = {"tenant": "acme", "email": address}
        assert (await api.client.post("/v1/password-resets", json=body)).status_code == 202
    (letter,) = (api_settings.data_dir / "letters").glob("*.eml")
    assert letter.stat().st_mode & 0o077 == 0
    token = letter.read_text().split("\n\n", 1)[1].strip()
    body = {"tenant": "acme", "token": token, "password": "another horse battery staple"}
    assert (await api.client.post("/v1/password-resets/redeem", json=body)).status_code == 204
    assert (await api.client.post("/v1/password-resets/redeem", json=body)).status_code == 401
    assert (await ann.ask("GET", "/v1/users/me")).status_code == 401


async def test_E9_fields_that_are_not_ones_own_are_refused(api: Api) -> None:
    """Each of the fields by which people make themselves more than they are."""
    ann = await api.person(await api.tenant("acme"), "ann", "owner")
    body = {"email": "bob@example.com", "username": "bob", "password": PASSWORD}
    for name, value in {
        "tenant_id": str(ann.tenant),
        "is_system": True,
        "status": "active",
        "mfa_enabled": True,
        "role": "owner",
        "email_verified": True,
        "id": str(ann.user_id),
    }.items():
        answer = await ann.ask("POST", "/v1/users", json=body | {name: value})
        assert answer.status_code == 400, (name, answer.text)
        assert name in answer.json()["detail"]
    assert (await ann.ask("POST", "/v1/users", json=body)).status_code == 201


async def test_roles_open_and_shut_routes(api: Api) -> None:
    """A member reads; a grant opens within the second, its end shuts; the answer says why."""
    acme = await api.tenant("acme")
    ann, bob = await api.person(acme, "ann", "owner"), await api.person(acme, "bob", "member")
    new = {"email": "eve@example.com", "username": "eve", "password": PASSWORD}
    refused = await bob.ask("POST", "/v1/users", json=new)
    assert refused.status_code == 403
    assert "users:create" in refused.json()["detail"]
    path = f"/v1/users/{bob.user_id}/roles/admin"
    assert (await ann.ask("PUT", path, json={})).status_code == 204
    await until(lambda: bob.ask("POST", "/v1/users", json=new), 201)
    why = await ann.ask("GET", f"/v1/users/{bob.user_id}/access/users:create")
    assert why.json()["is_allowed"] is True
    assert (await ann.ask("DELETE", path)).status_code == 204
    again = new | {"email": "e2@example.com", "username": "e2"}
    await until(lambda: bob.ask("GET", "/v1/roles"), 403)
    assert (await bob.ask("POST", "/v1/users", json=again)).status_code == 403


async def test_a_service_with_a_key(api: Api) -> None:
    """A key opens what the service's roles allow, until it is revoked."""
    ann = await api.person(await api.tenant("acme"), "ann", "owner")
    service = (await ann.ask("POST", "/v1/services", json={"name": "feeder"})).json()
    grant = f"/v1/services/{service['id']}/roles/service"
    assert (await ann.ask("PUT", grant, json={})).status_code == 204
    made = (await ann.ask("POST", f"/v1/services/{service['id']}/keys", json={})).json()
    headers = {"authorization": f"Bearer {made['key']}"}
    assert (await api.client.get("/v1/wallets", headers=headers)).status_code == 200
    assert (await api.client.get("/v1/users/me", headers=headers)).status_code == 403
    assert (await ann.ask("DELETE", f"/v1/services/keys/{made['id']}")).status_code == 204
    assert (await api.client.get("/v1/wallets", headers=headers)).status_code == 401


async def test_operators_make_and_close_tenants(api: Api) -> None:
    """With the operators' token only; a closed tenant's people are nobody."""
    body = {"name": "Acme", "identifier": "acme", "tier": "pro"}
    ann = await api.person(await api.tenant(), "ann", "owner")
    assert (await ann.ask("POST", "/v1/tenants", json=body)).status_code == 403
    made = await api.operator("POST", "/v1/tenants", json=body)
    assert made.status_code == 201, made.text
    assert (await api.operator("POST", "/v1/tenants", json=body)).status_code == 409
    assert (await api.operator("GET", "/v1/users")).status_code == 403
    assert (await api.operator("DELETE", f"/v1/tenants/{ann.tenant}")).status_code == 204
    assert "acme" in [
        t["identifier"] for t in (await api.operator("GET", "/v1/tenants")).json()["items"]
    ]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/users/me", 401),
        ("GET", "/v1/nowhere", 404),
        ("PUT", "/v1/sessions", 405),
        ("POST", "/v1/sessions", 400),
    ],
)
async def test_every_refusal_is_a_problem(api: Api, method: str, path: str, status: int) -> None:
    """One shape for all, also where the framework refuses."""
    answer = await api.client.request(method, path)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.json()["status"] == status


async def test_E5_a_token_is_taken_from_one_place_only(api: Api) -> None:
    """Not from the address, a cookie or another scheme; and it shows in no answer and no letter."""
    ann = await api.person(await api.tenant("acme"), "ann")
    token = ann.tokens["access_token"]
    for options in (
        {"params": {"access_token": token}},
        {"headers": {"cookie": f"token={token}"}},
        {"headers": {"authorization": f"Basic {token}"}},
        {"headers": {"authorization": token}},
    ):
        assert (await api.client.get("/v1/users/me", **options)).status_code == 401
    assert token not in (await ann.ask("GET", "/v1/sessions")).text


async def test_D_a_source_behind_proxies_is_what_they_say(api: Api, tmp_path: Path) -> None:
    """Without a configured proxy the header is ignored: a caller cannot choose their address."""
    acme = await api.tenant("acme")
    ann = await api.person(acme, "ann")
    headers = {"x-forwarded-for": "198.51.100.7"}
    assert (await api.client.post("/v1/sessions", json=LOGIN, headers=headers)).status_code == 201
    shown = {session["ip_address"] for session in (await ann.ask("GET", "/v1/sessions")).json()}
    assert "198.51.100.7" not in shown


async def test_wallets_and_attestations_are_bound_to_the_tenant_of_the_token(
    api: Api, layer_databases: Endpoints
) -> None:
    """A wallet is made, shown and signs; a quote without a policy is refused with a reason."""
    ann = await api.person(await api.tenant("acme"), "ann", "owner")
    bob = await api.person(await api.tenant("other"), "bob", "owner")
    with psycopg.connect(layer_databases.postgres.dsn(Role.INGEST)) as ingest:
        ingest.execute(
            "INSERT INTO blockchain.networks (name, chain_id, network_type)"
            " VALUES ('ethereum', 1, 'evm')"
        )
    made = await ann.ask("POST", "/v1/wallets", json={"network": "ethereum", "name": "till"})
    assert made.status_code == 201, made.text
    path = f"/v1/wallets/{made.json()['id']}"
    assert (await ann.ask("GET", path)).json() == made.json()
    signed = await ann.ask("POST", f"{path}/messages", json={"message": "hello"})
    assert signed.status_code == 201, signed.text
    absent = await bob.ask("GET", f"/v1/wallets/{ann.user_id}")
    foreign = await bob.ask("GET", path)
    assert (foreign.status_code, foreign.text) == (404, absent.text)
    body = {"quote": quotes.quote("phala/sgx_quote").hex(), "enclave_id": "oracle"}
    judged = await ann.ask("POST", "/v1/attestations", json=body)
    assert (judged.status_code, judged.json()["status"]) == (201, "rejected"), judged.text
    shown = f"/v1/attestations/{judged.json()['attestation_id']}"
    assert (await ann.ask("GET", shown)).status_code == 200
    assert (await bob.ask("GET", shown)).status_code == 404
    trail = (await ann.ask("GET", "/v1/audit", params={"resource": "wallet"})).json()["items"]
    assert {entry["principal"] for entry in trail} == {f"user:{ann.user_id}"}
    assert (await bob.ask("GET", "/v1/audit", params={"resource": "wallet"})).json()["items"] == []


async def test_a_write_says_its_position_and_a_read_does_not(api: Api) -> None:
    """What a client must ask a store for to find its own write there."""
    acme = await api.tenant("acme")
    ann = await api.person(acme, "ann", "owner")
    made = await ann.ask("POST", "/v1/roles", json={"name": "clerk", "permissions": []})
    assert made.status_code == 201, made.text
    position = Position.parse(made.headers["neolayer-position"])
    reached = (await acme.position()).at("neolayer")
    assert reached is not None and Position(1, 0) < position <= reached
    assert "neolayer-position" not in (await ann.ask("GET", "/v1/roles")).headers


async def test_lists_go_on_where_a_page_ended(api: Api) -> None:
    """People, attestations, the trail, and for operators tenants: each once, and null at the end. A
    place is of its list alone."""
    acme = await api.tenant()
    olga = await api.person(acme, "olga", "owner")
    for number in range(4):
        await acme.users.create(
            email=f"u{number}@example.com", username=f"u{number}", password=PASSWORD
        )
    marks: list[str] = []
    for path, key in (("/v1/users", "username"), ("/v1/audit", "id")):
        whole = (await olga.ask("GET", path)).json()
        assert whole["after"] is None
        seen, after = list[str](), None
        while True:
            asked = {"limit": 2} | ({"after": after} if after else {})
            page = (await olga.ask("GET", path, params=asked)).json()
            seen += [item[key] for item in page["items"]]
            if (after := page["after"]) is None:
                break
            marks.append(after)
        assert seen == [item[key] for item in whole["items"]]
        assert len(seen) > 4
    assert (await olga.ask("GET", "/v1/audit", params={"after": marks[0]})).status_code == 422
    params = {"after": marks[0], "status": "active"}
    assert (await olga.ask("GET", "/v1/users", params=params)).status_code == 422
    page = (await api.operator("GET", "/v1/tenants", params={"limit": 1})).json()
    if page["after"] is not None:
        following = await api.operator("GET", "/v1/tenants", params={"after": page["after"]})
        assert page["items"][0]["id"] not in [tenant["id"] for tenant in following.json()["items"]]
