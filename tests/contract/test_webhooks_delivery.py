"""Deliveries to a real HTTP server: signed, in order, retried, parked, replayed."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from aiohttp import web
from structlog.testing import capture_logs
from tests.fixtures.fix_tenancy import NewTenant
from tests.fixtures.fix_webhooks import POLICY, Receiver, Told
from tests.fixtures.patience import PATIENCE_S

from neolayer.engines import outbound
from neolayer.engines.endpoints import Endpoints, Role
from neolayer.errors import Conflict, EngineError
from neolayer.keys import Keyring
from neolayer.tenancy import CoreDatabase, Principal, Scope, Tenants, open_core
from neolayer.webhooks import Webhooks, verify
from neolayer.webhooks.deliverer import Deliverer, Policy
from neolayer.webhooks.tasks import webhook_status


@pytest.fixture
async def core(module_databases: Endpoints) -> AsyncIterator[CoreDatabase]:
    """Databases of the module; a test leaves no webhook behind."""
    async with open_core(module_databases, application_name="tests") as database:
        yield database
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("DELETE FROM core.webhooks")


@contextlib.asynccontextmanager
async def delivering(
    at: Endpoints, keyring: Keyring, policy: Policy = POLICY
) -> AsyncIterator[Deliverer]:
    """A deliverer at work, stopped at the end."""
    deliverer = Deliverer(at, keyring, policy)
    task = asyncio.create_task(deliverer.run())
    try:
        yield deliverer
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def queue(webhooks: Webhooks, webhook: Any, count: int) -> list[str]:
    return [await webhooks.send_trial(webhook.id) for _ in range(count)]


async def statuses(webhooks: Webhooks, webhook: Any) -> list[str]:
    return [d.status for d in reversed(await webhooks.deliveries(webhook.id))]


async def settled(webhooks: Webhooks, name: str) -> None:
    """Wait until nothing is pending for the webhook."""
    async with asyncio.timeout(PATIENCE_S):
        while (await webhooks.get(name)).pending:
            await asyncio.sleep(0.01)


async def test_deliveries_arrive_in_order_and_verify(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """A receiver with the secret proves each one; the envelope says what it is."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 60)
    async with delivering(module_databases, keyring):
        await settled(webhooks, "billing")
    assert receiver.ids() == sent
    for told in receiver.told:
        verify(told.headers, told.body, [made.secret], now=datetime.now(UTC))
        assert told.envelope["id"] == told.headers["webhook-id"]
        assert told.headers["content-type"] == "application/json"
    found = await webhooks.get("billing")
    assert found.last_delivered_at is not None and found.failing_since is None


@pytest.mark.parametrize("where", ["_wait", "_deliver"])
async def test_what_is_given_up_by_itself_ends_no_deliveries(
    where: str,
    new_tenant: NewTenant,
    module_databases: Endpoints,
    keyring: Keyring,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client cancels what the deliverer, or one endpoint's turn, waits for: told, and tried
    again."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    whole, calls = getattr(Deliverer, where), 0

    async def given_up_at_first(self: Deliverer, *given: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise asyncio.CancelledError
        return await whole(self, *given)

    monkeypatch.setattr(Deliverer, where, given_up_at_first)
    monkeypatch.setattr("neolayer.webhooks.deliverer._RUN_S", 0.5)  # so is the lease
    with capture_logs() as logs:
        async with delivering(module_databases, keyring, replace(POLICY, timeout_s=0.2)) as at_work:
            async with asyncio.timeout(PATIENCE_S):
                while not calls:
                    await asyncio.sleep(0.01)
                    if where == "_deliver":
                        await queue(webhooks, made, 1)
                        at_work.wake()
            sent = await queue(webhooks, made, 1)
            at_work.wake()
            await settled(webhooks, "billing")
    assert sent[0] in receiver.ids()
    assert [one["error"] for one in logs if "without an answer" in one.get("error", "")]


async def test_E1_a_lock_that_a_tenant_holds_keeps_no_connection_from_the_others(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """A transaction that locks its deliveries and does not end is not waited for; afterwards they
    are told again, under the same id."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    (sent,) = await queue(webhooks, made, 1)
    deliverer = Deliverer(module_databases, keyring, POLICY)
    async with acme.transaction() as holding, asyncio.timeout(PATIENCE_S):
        await holding.fetch("SELECT number FROM core.webhook_deliveries FOR UPDATE")
        assert await deliverer.deliver_due() == 1
    await acme.fetch("UPDATE core.webhooks SET next_attempt_at = now() RETURNING id")
    assert await deliverer.deliver_due() == 1
    assert receiver.ids() == [sent, sent]
    assert await statuses(webhooks, made) == ["delivered"]


async def test_after_a_rotation_both_secrets_fit_until_the_old_one_ends(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """A receiver changes its secret when it likes within the overlap; then the new one fits."""
    webhooks = Webhooks(await new_tenant(), keyring)
    old = await webhooks.create("billing", receiver.url, ["*"])
    new = await webhooks.rotate(old.id, overlap=timedelta(hours=1))
    await queue(webhooks, old, 1)
    async with delivering(module_databases, keyring) as deliverer:
        await settled(webhooks, "billing")
        newest = await webhooks.rotate(old.id, overlap=timedelta(0))
        await queue(webhooks, old, 1)
        deliverer.wake()
        await settled(webhooks, "billing")
    first, second = receiver.told
    for secret in (old.secret, new.secret):
        verify(first.headers, first.body, [secret], now=datetime.now(UTC))
        with pytest.raises(Exception, match="no signature fits"):
            verify(second.headers, second.body, [secret], now=datetime.now(UTC))
    verify(second.headers, second.body, [newest.secret], now=datetime.now(UTC))


async def test_C7_what_fails_is_tried_again_and_nothing_else(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """503, 429 and a cut: the one delivery comes again under its id, the others once, in order."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 3)
    receiver.answers.extend(
        [web.Response(status=204), web.Response(status=503), web.Response(status=429)]
    )
    async with delivering(module_databases, keyring):
        await settled(webhooks, "billing")
    assert receiver.ids() == [sent[0], sent[1], sent[1], sent[1], sent[2]]
    assert [told.headers["webhook-attempt"] for told in receiver.told] == list("11231")
    assert await statuses(webhooks, made) == ["delivered"] * 3


async def test_C7_retry_after_is_honoured(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """An endpoint that asks for ten minutes is left alone for ten minutes."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    await queue(webhooks, made, 1)
    receiver.answers.append(web.Response(status=429, headers={"Retry-After": "600"}))
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 1
    row = await acme.one(
        "SELECT extract(epoch FROM next_attempt_at - clock_timestamp()) FROM core.webhooks"
    )
    assert row is not None and 550 < row[0] <= 600
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 0


async def test_C8_a_poison_delivery_is_parked_and_can_be_replayed(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """What the endpoint refuses is parked with the cause after three tries; its neighbours flow."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 3)
    poison = sent[1]

    def picky(told: Told) -> web.Response:
        return web.Response(status=422 if told.headers["webhook-id"] == poison else 204)

    receiver.of_path["/"] = picky
    async with delivering(module_databases, keyring) as deliverer:
        await settled(webhooks, "billing")
        assert await statuses(webhooks, made) == ["delivered", "parked", "delivered"]
        parked = (await webhooks.deliveries(made.id, status="parked"))[0]
        assert (parked.event_id, parked.attempts, parked.last_error) == (poison, 3, "answered 422")
        del receiver.of_path["/"]
        assert await webhooks.replay(made.id) == 1
        deliverer.wake()
        await settled(webhooks, "billing")
    assert receiver.ids().count(poison) == 4
    assert await statuses(webhooks, made) == ["delivered"] * 3


async def test_C6_a_dead_and_a_slow_endpoint_delay_no_other(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Of one tenant even: while one hangs and one answers 500, the third has everything."""
    webhooks = Webhooks(await new_tenant(), keyring)
    held = asyncio.Event()

    async def hang(told: Told) -> web.Response:
        await held.wait()
        return web.Response(status=204)

    receiver.of_path["/slow"] = hang
    receiver.of_path["/dead"] = lambda told: web.Response(status=500)
    made = {
        name: await webhooks.create(name, receiver.url + name, ["*"])
        for name in ("slow", "dead", "well")
    }
    for webhook in made.values():
        await queue(webhooks, webhook, 20)
    async with delivering(
        module_databases, keyring, replace(POLICY, timeout_s=PATIENCE_S, attempts=99)
    ):
        await receiver.until(20, "/well")
        assert len(receiver.ids("/slow")) == 1
        assert (await webhooks.get("dead")).pending == 20
        held.set()
        await receiver.until(20, "/slow")
    assert (await webhooks.get("dead")).failing_since is not None


async def test_an_endpoint_that_fails_for_long_or_is_gone_is_disabled(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """With the reason; what waits is there when it is enabled again."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    await queue(webhooks, made, 1)
    receiver.answers.extend(web.Response(status=500) for _ in range(2))
    strict = replace(POLICY, disable_after=timedelta(0), attempts=99)
    async with delivering(module_databases, keyring, strict) as deliverer:
        async with asyncio.timeout(PATIENCE_S):
            while (await webhooks.get("billing")).status == "active":
                await asyncio.sleep(0.01)
        found = await webhooks.get("billing")
        assert found.disabled_reason == "it failed for too long: answered 500"
        told = await webhook_status(module_databases.postgres.dsn(Role.OPERATOR))
        assert (told.endpoints, told.disabled, told.pending) == (1, 1, 1)  # what `status` says
        await webhooks.enable(made.id)
        deliverer.wake()
        await settled(webhooks, "billing")
        receiver.answers.append(web.Response(status=410))
        await queue(webhooks, made, 1)
        deliverer.wake()
        async with asyncio.timeout(PATIENCE_S):
            while (await webhooks.get("billing")).status == "active":
                await asyncio.sleep(0.01)
    assert (await webhooks.get("billing")).disabled_reason == "the endpoint says that it is gone"
    assert (await webhooks.get("billing")).pending == 1


async def test_E11_where_a_webhook_may_lead(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Not to this machine, a private network or a metadata address, by whatever name or spelling;
    and not over plain HTTP. The receiver hears nothing."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    port = receiver.url.rsplit(":", 1)[1].strip("/")
    hosts = (
        f"127.0.0.1:{port}",
        f"localhost:{port}",
        f"[::1]:{port}",
        f"[::ffff:127.0.0.1]:{port}",
        f"2130706433:{port}",
        f"0x7f000001:{port}",
        f"0.0.0.0:{port}",
        "169.254.169.254",
        "[fd00:ec2::254]",
        "10.0.0.1",
        "[fe80::1]",
        "[64:ff9b::a9fe:a9fe]",
        "100.100.100.200",
    )
    urls = [f"{scheme}://{host}/" for host in hosts for scheme in ("http", "https")]
    for number, url in enumerate(urls):
        made = await webhooks.create(f"w{number}", url, ["*"])
        await queue(webhooks, made, 1)
    public = replace(POLICY, private_networks=())
    while await Deliverer(module_databases, keyring, public).deliver_due():
        pass
    assert receiver.told == []
    for webhook in await webhooks.list():
        assert webhook.last_error is not None and "cannot be called" in webhook.last_error


async def test_E11_what_failed_tells_nothing_of_our_network(
    new_tenant: NewTenant,
    module_databases: Endpoints,
    keyring: Keyring,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A name that leads inside, one that is not known and one where nothing listens: the tenant
    reads the same of each, and no address."""

    async def answer(host: str, port: int, **_: Any) -> list[Any]:
        if host == "absent.corp.example":
            raise OSError("not known")
        return [(2, 1, 6, "", ("10.20.30.40", port))]

    webhooks = Webhooks(await new_tenant(), keyring)
    for name in ("inside", "absent"):
        made = await webhooks.create(name, f"https://{name}.corp.example/", ["*"])
        await queue(webhooks, made, 1)
    monkeypatch.setattr(outbound, "look_up", answer)
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    said = {webhook.last_error for webhook in await webhooks.list()}
    said |= {(await webhooks.deliveries(w.id))[0].last_error for w in await webhooks.list()}
    assert said == {"cannot be called: there is no connection to it at a public address, by https"}


async def test_E11_redirects_are_not_followed(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """An endpoint cannot send us elsewhere, and nothing of what it answers is kept."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    await queue(webhooks, made, 1)
    away = {"Location": f"{receiver.url}elsewhere"}
    receiver.answers.append(web.Response(status=302, headers=away, text="secret of the inside"))
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    assert receiver.ids("/elsewhere") == []
    error = (await webhooks.get("billing")).last_error
    assert error == "answered 302: redirects are not followed"


async def test_E11_no_cookie_is_kept(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Neither for the endpoint that gave it nor for another tenant's under the same name."""
    for name in ("one", "two"):
        webhooks = Webhooks(await new_tenant(), keyring)
        made = await webhooks.create(name, receiver.url, ["*"])
        await queue(webhooks, made, 2)
    for number in range(2):
        receiver.answers.append(web.Response(headers={"Set-Cookie": f"c{number}=secret; Path=/"}))
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    assert len(receiver.told) == 4
    assert not any("cookie" in told.headers for told in receiver.told)


async def test_a_name_that_takes_its_time_keeps_no_thread_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever owns a name decides how long it takes to be known: nothing else waits for it."""
    answered = threading.Event()

    def slow(*_: Any, **__: Any) -> list[Any]:
        answered.wait(PATIENCE_S)
        raise OSError("nobody")

    monkeypatch.setattr("socket.getaddrinfo", slow)
    asked = [asyncio.create_task(outbound.resolve("slow.example", 443)) for _ in range(64)]
    try:
        async with asyncio.timeout(PATIENCE_S / 2):
            await asyncio.gather(*(asyncio.to_thread(lambda: None) for _ in range(64)))
        assert not any(task.done() for task in asked)
    finally:
        answered.set()
        await asyncio.gather(*asked, return_exceptions=True)


async def test_a_secret_signs_for_all_of_its_overlap(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """A rotation that would end another secret's overlap before its time is refused."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    secrets = [made.secret] + [(await webhooks.rotate(made.id)).secret for _ in range(3)]
    with pytest.raises(Conflict, match="4 secrets sign already"):
        await webhooks.rotate(made.id)
    await queue(webhooks, made, 1)
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    (told,) = receiver.told
    for secret in secrets:
        verify(told.headers, told.body, [secret], now=datetime.now(UTC))
    assert (await webhooks.rotate(made.id, overlap=timedelta(0))).secret


async def test_an_endpoint_that_drips_is_cut_off(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring
) -> None:
    """The time limit is for the whole answer, not for each of its bytes."""

    over, closed = asyncio.Event(), asyncio.Event()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.CancelledError):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            while not over.is_set():
                writer.write(b"x")
                await writer.drain()
                await asyncio.sleep(0.05)
        writer.close()
        closed.set()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    webhooks = Webhooks(await new_tenant(), keyring)
    port = server.sockets[0].getsockname()[1]
    made = await webhooks.create("billing", f"http://127.0.0.1:{port}/", ["*"])
    await queue(webhooks, made, 1)
    await Deliverer(module_databases, keyring, replace(POLICY, timeout_s=0.3)).deliver_due()
    over.set()
    await closed.wait()
    server.close()
    assert (await webhooks.get("billing")).last_error == "no answer within 0.3 s"


async def test_C1_a_deliverer_that_dies_leaves_its_endpoint_to_others(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """When its lease ends; a delivery it had sent and not noted comes again under the same id."""
    acme: Scope = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 1)

    async def hang(told: Told) -> web.Response:
        await asyncio.Event().wait()
        raise AssertionError

    receiver.of_path["/"] = hang
    async with delivering(module_databases, keyring):
        await receiver.until(1)
    del receiver.of_path["/"]
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 0  # still leased
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("UPDATE core.webhooks SET next_attempt_at = now()")
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 1
    assert receiver.ids() == [sent[0], sent[0]]


async def test_E11_a_closed_tenants_endpoints_are_told_nothing(
    new_tenant: NewTenant,
    core: CoreDatabase,
    module_databases: Endpoints,
    keyring: Keyring,
    receiver: Receiver,
) -> None:
    """From its end on, also in the midst of a run; when it is opened again, what waited comes."""
    acme = await new_tenant()
    tenants = Tenants(core.platform(by=Principal.operator("tests")))
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 3)

    async def close(told: Told) -> web.Response:
        await tenants.delete(acme.tenant)
        return web.Response(status=204)

    receiver.of_path["/"] = close
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 1
    assert receiver.ids() == sent[:1]
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("UPDATE core.webhooks SET next_attempt_at = now()")
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 0
    del receiver.of_path["/"]
    await tenants.restore(acme.tenant)
    assert await Deliverer(module_databases, keyring, POLICY).deliver_due() == 1
    assert receiver.ids() == sent


async def test_E11_what_a_tenant_changes_counts_for_the_next_delivery(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Another address, another secret, disabled: of a run that has begun too."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url + "old", ["*"])
    sent = await queue(webhooks, made, 4)
    rotated: list[str] = []

    async def move(told: Told) -> web.Response:
        await webhooks.change(made.id, url=receiver.url + "new")
        rotated.append((await webhooks.rotate(made.id, overlap=timedelta(0))).secret)
        return web.Response(status=204)

    async def disable(told: Told) -> web.Response:
        if len(receiver.ids("/new")) == 2:
            await webhooks.disable(made.id)
        return web.Response(status=204)

    receiver.of_path.update({"/old": move, "/new": disable})
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    assert (receiver.ids("/old"), receiver.ids("/new")) == (sent[:1], sent[1:3])
    verify(receiver.told[1].headers, receiver.told[1].body, rotated, now=datetime.now(UTC))
    with pytest.raises(Exception, match="no signature fits"):
        verify(
            receiver.told[1].headers, receiver.told[1].body, [made.secret], now=datetime.now(UTC)
        )
    assert (await webhooks.get("billing")).pending == 1


async def test_what_no_header_can_hold_stops_nothing(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """An event whose id is not ASCII comes under its percent-encoded id; its neighbours come."""
    acme = await new_tenant()
    webhooks = Webhooks(acme, keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    sent = await queue(webhooks, made, 2)
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute(
            "UPDATE core.webhook_deliveries SET event_id = 'ünï\u2028\n1' WHERE event_id = %s",
            (sent[0],),
        )
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    assert receiver.ids() == ["%C3%BCn%C3%AF%E2%80%A8%0A1", sent[1]]
    told = receiver.told[0]
    verify(told.headers, told.body, [made.secret], now=datetime.now(UTC))


async def test_an_address_that_cannot_be_read_is_held_back_alone(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Whoever wrote it past us: the delivery says so and the deliverer goes on."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    await queue(webhooks, made, 1)
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("UPDATE core.webhooks SET url = 'https://[::1/' ")
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    error = (await webhooks.deliveries(made.id))[0].last_error
    assert error == "cannot be called: it does not fit into a request"


async def test_nothing_leaves_unsigned(
    new_tenant: NewTenant, module_databases: Endpoints, keyring: Keyring, receiver: Receiver
) -> None:
    """Where no secret lives any more the endpoint waits, and says why."""
    webhooks = Webhooks(await new_tenant(), keyring)
    made = await webhooks.create("billing", receiver.url, ["*"])
    await queue(webhooks, made, 1)
    with psycopg.connect(module_databases.postgres.dsn(Role.ADMIN)) as admin:
        admin.execute("UPDATE core.webhook_secrets SET expires_at = now()")
    await Deliverer(module_databases, keyring, POLICY).deliver_due()
    assert receiver.told == []
    found = await webhooks.get("billing")
    assert found.last_error == "No secret of this webhook signs any more: rotate it."
    assert found.pending == 1


async def test_after_trouble_that_passed_the_next_is_met_at_once(
    module_databases: Endpoints, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause grows while the database is away, and begins anew once it was there again."""
    deliverer = Deliverer(module_databases, keyring, POLICY)
    looks, paused = 0, asyncio.Event()

    async def start_due(*_: Any) -> list[Any]:
        nonlocal looks
        looks += 1
        if looks != 4:
            raise EngineError("postgres", "away")
        return []

    async def pause(*_: Any) -> None:
        return

    pauses: list[float] = []
    sleep = asyncio.sleep

    async def sleeping(seconds: float) -> None:
        pauses.append(deliverer._pause_s)
        if len(pauses) == 4:
            paused.set()
            await asyncio.Event().wait()
        await sleep(0)

    monkeypatch.setattr(deliverer, "_start_due", start_due)
    monkeypatch.setattr(deliverer, "_wait", pause)
    monkeypatch.setattr("neolayer.webhooks.deliverer.asyncio.sleep", sleeping)
    task = asyncio.create_task(deliverer.run())
    await paused.wait()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert pauses == [0.2, 0.4, 0.8, 0.2]
