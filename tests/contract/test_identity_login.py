"""The check of credentials: one answer to strangers, waits they cannot inflict on others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import LiteralString
from uuid import UUID, uuid4

import psycopg
import pyotp
import pytest
from tests.fixtures.fix_identity import HERE, PASSWORD, SLOWER, People

from neolayer.errors import InvalidInput
from neolayer.identity import (
    Authenticated,
    BadCredentials,
    Client,
    Credentials,
    EscalationRefused,
    Login,
    PasswordHasher,
    Status,
    TooManyLogins,
    Users,
)
from neolayer.identity.backoff import (
    MOST_OF_A_DEVICE,
    MOST_OF_A_SOURCE,
    MOST_OF_AN_ACCOUNT,
    account_subject,
    proof_subject,
)
from neolayer.tenancy import Principal

WRONG = Credentials("not the password at all")
RIGHT = Credentials(PASSWORD)
COUNTERS = (
    "SELECT kind, subject, failures, last_failed_at FROM auth.login_failures ORDER BY subject"
)
WAIT = "UPDATE auth.login_failures SET last_failed_at = last_failed_at - %s RETURNING kind"


async def failures(people: People, kind: str) -> int:
    row = await people.scope.one(
        "SELECT coalesce(sum(failures), 0) FROM auth.login_failures WHERE kind = %s", (kind,)
    )
    assert row is not None
    return int(row[0])


async def time_passes(people: People, span: timedelta) -> None:
    await people.scope.fetch(WAIT, (span,))


async def refusal(people: People, name: str, offered: Credentials, client: Client = HERE) -> object:
    with pytest.raises(BadCredentials) as caught:
        await people.login.check(name, offered, client)
    return caught.value.message, caught.value.hint, caught.value.exit_code, caught.value.args


async def test_a_login_by_either_name(people: People) -> None:
    """By address or user name in any spelling; the login is noted at the user and in the audit."""
    user = await people.add()
    for name in ("ann", "ANN", "Ann@EXAMPLE.com"):
        found = await people.try_login(name)
        assert (found.user.id, found.second_factor, found.known_device) == (user.id, False, False)
        assert found.user.last_login_at is not None
    noted = await people.scope.fetch(
        "SELECT principal, user_id, resource_id, success, host(ip_address) FROM audit.entries"
        " WHERE action = 'LOGIN'"
    )
    assert noted == [(f"user:{user.id}", user.id, str(user.id), True, HERE.ip)] * 3


async def test_E3_every_refusal_is_the_same_answer(people: People) -> None:
    """Absent, wrong, deleted, suspended, locked and no name at all: not a letter differs."""
    await people.add()
    for name in ("gone", "suspended", "locked", "inactive"):
        user = await people.add(name)
        if name == "gone":
            await people.users.delete(user.id)
        else:
            await people.users.set_status(user.id, status=Status(name))
    tries = [
        ("ann", WRONG),
        ("nobody", RIGHT),
        ("nobody@example.com", RIGHT),
        ("\x00\ud800@", RIGHT),
        ("", RIGHT),
        ("x" * 1_000_000, RIGHT),
        *((name, RIGHT) for name in ("gone", "suspended", "locked", "inactive")),
        ("ann", Credentials("x" * 1_000_000)),
        ("ann", Credentials("\ud800")),
        ("ann", Credentials("")),
    ]
    answers = [await refusal(people, name, offered) for name, offered in tries]
    assert len(set(answers)) == 1


@pytest.mark.parametrize("status", [Status.SUSPENDED, Status.INACTIVE, Status.LOCKED])
async def test_E3_who_is_kept_out_is_not_told_that_the_password_was_right(
    people: People, status: Status
) -> None:
    """By either name and as a proof, before any code is asked for, and before anything is changed:
    the trail says why, whoever asks hears what an absent person does."""
    user = await people.add()
    enrolment = await people.users.mfa.begin(user.id)
    await people.users.mfa.confirm(user.id, code=pyotp.TOTP(enrolment.secret).now())
    await people.users.set_status(user.id, status=status)
    absent = await refusal(people, "nobody", RIGHT)
    assert await refusal(people, "ann", RIGHT) == absent
    assert await refusal(people, "ann@example.com", RIGHT) == absent
    with pytest.raises(BadCredentials):
        await people.login.prove(user.id, RIGHT, HERE)
    noted = await people.scope.fetch(
        "SELECT error_message FROM audit.entries WHERE action = 'LOGIN' AND resource_id = %s",
        (str(user.id),),
    )
    assert noted == [("not active",)] * 3


async def test_E12_a_failed_login_is_audited_without_what_was_typed(people: People) -> None:
    """Also for an unknown user, with the reason and where from; never the password or the name."""
    user = await people.add()
    typed = "Canary-Passw0rd-in-the-name-field"
    for name, offered in (("ann", WRONG), (typed, RIGHT)):
        await refusal(people, name, offered)
    noted = await people.scope.fetch(
        "SELECT resource_id, success, error_message, principal FROM audit.entries"
        " WHERE action = 'LOGIN' ORDER BY occurred_at"
    )
    assert noted == [
        (str(user.id), False, "wrong password", "anonymous:-"),
        (None, False, "no such user", "anonymous:-"),
    ]
    everything = await people.scope.fetch("SELECT e::text FROM audit.entries AS e")
    assert typed.lower() not in str(everything).lower()
    assert WRONG.password not in str(everything)


@pytest.mark.usefixtures("slow_waits")
async def test_E8_a_source_backs_off_and_the_owner_does_not(people: People) -> None:
    """From the fifth failure the stranger waits, twice as long each time; others get in."""
    await people.add()
    stranger = Client("198.51.100.7")
    for _ in range(5):
        await refusal(people, "ann", WRONG, stranger)
    for expected in (1, 2, 4, 8):
        with pytest.raises(BadCredentials) as caught:
            await people.login.check("ann", RIGHT, stranger)
        assert caught.value.retry_after is not None
        wait = SLOWER * timedelta(seconds=expected)
        assert wait / 2 < caught.value.retry_after <= wait
        await time_passes(people, wait)
        await refusal(people, "ann", WRONG, stranger)
    assert (await people.try_login()).failed_before == 9
    await time_passes(people, SLOWER * timedelta(minutes=15))
    assert await people.login.check("ann", RIGHT, stranger)
    assert await failures(people, "pair") == 5 + 4 - 9


@pytest.mark.usefixtures("slow_waits")
async def test_E8_absent_names_back_off_alike(people: People) -> None:
    """The wait tells nothing: it follows from what the source did, not from who exists."""
    await people.add()
    waits: dict[str, list[timedelta | None]] = {"ann": [], "nobody": []}
    for _ in range(8):
        for name, seen in waits.items():
            with pytest.raises(BadCredentials) as caught:
                await people.login.check(name, WRONG, HERE)
            seen.append(caught.value.retry_after and timedelta(seconds=1))
    assert waits["ann"] == waits["nobody"] == [None] * 5 + [timedelta(seconds=1)] * 3


@pytest.mark.usefixtures("slow_waits")
async def test_E8_tries_at_once_all_count(people: People) -> None:
    """A burst is no way round the wait: five of thirty are answered, the rest have to wait."""
    await people.add()
    tries = [people.login.check("ann", WRONG, HERE) for _ in range(30)]
    outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert all(isinstance(outcome, BadCredentials) for outcome in outcomes)
    answered = [o for o in outcomes if isinstance(o, BadCredentials) and o.retry_after is None]
    assert len(answered) == 5
    assert await failures(people, "account") == 5


async def under_attack(people: People, user_id: UUID) -> None:
    await people.scope.fetch(
        "INSERT INTO auth.login_failures (tenant_id, subject, kind, failures)"
        " VALUES (%s, %s, 'account', %s) RETURNING kind",
        (people.scope.tenant, account_subject(user_id), MOST_OF_AN_ACCOUNT),
    )


async def test_E8_strangers_everywhere_get_three_tries_after_a_hundred(people: People) -> None:
    """After 100 failures from anywhere a source has three tries a day; then even the right password
    is refused, with the same answer and count of work as a wrong one or an absent name."""
    user = await people.add()
    await under_attack(people, user.id)
    guesser = Client("198.51.100.1")
    answers = {await refusal(people, "ann", WRONG, guesser) for _ in range(3)}
    answers.add(await refusal(people, "ann", RIGHT, guesser))
    answers.add(await refusal(people, "nobody", RIGHT, Client("198.51.100.10")))
    assert len(answers) == 1
    assert await failures(people, "account") == MOST_OF_AN_ACCOUNT
    await time_passes(people, timedelta(days=1))
    assert await people.try_login(ip="198.51.100.1")


async def test_E8_strangers_do_not_shut_the_owner_out(people: People) -> None:
    """However many have failed from elsewhere, the owner gets in from a new address and a new
    device, also after a slip, and then all is as before."""
    user = await people.add()
    await under_attack(people, user.id)
    for n in range(1, 4):
        await refusal(people, "ann", WRONG, Client(f"198.51.100.{n}"))
    await refusal(people, "ann", WRONG, Client("203.0.113.5"))
    entered = await people.try_login(ip="203.0.113.5")
    assert not entered.known_device
    assert entered.failed_before == MOST_OF_AN_ACCOUNT
    assert await failures(people, "account") == 0


async def test_E8_a_known_device_answers_to_no_stranger(people: People) -> None:
    """It gets in although its address has guessed."""
    user = await people.add()
    owner = Client("203.0.113.5", device=(await people.try_login(ip="203.0.113.5")).device)
    await under_attack(people, user.id)
    for _ in range(4):
        await refusal(people, "ann", WRONG, Client("203.0.113.5"))
    entered = await people.login.check("ann", RIGHT, owner)
    assert (entered.known_device, entered.device) == (True, owner.device)


async def test_E8_a_site_of_many_lines_is_stopped_as_one(people: People) -> None:
    """Five failures from each of 21 lines: after those of four lines the site waits, so that one
    site cannot bring an account under attack; another provider notices nothing."""
    await people.add()
    waits = 0
    for line in range(21):
        for _ in range(5):
            with pytest.raises(BadCredentials) as caught:
                await people.login.check("ann", WRONG, Client(f"2001:db8:0:{line:x}::1"))
            waits += caught.value.retry_after is not None
    assert await failures(people, "account") <= 40
    assert waits >= 60
    assert await people.try_login(ip="2001:db9::1")


async def test_E8_an_operator_opens_an_account_again(people: People) -> None:
    """Setting the status to active forgets the strangers' failures."""
    user = await people.add()
    await under_attack(people, user.id)
    for _ in range(3):
        await refusal(people, "ann", WRONG)
    await refusal(people, "ann", RIGHT)
    await people.users.set_status(user.id, status=Status.ACTIVE)
    assert await people.try_login()


@pytest.mark.usefixtures("slow_waits")
async def test_E8_a_device_answers_for_its_own_failures(people: People) -> None:
    """It waits for its own, and after twenty it is a stranger; another user's device is none."""
    await people.add()
    await people.add("bob")
    device = (await people.try_login()).device
    at_home = Client("203.0.113.5", device=device)
    for _ in range(5):
        await refusal(people, "ann", WRONG, at_home)
    assert (await failures(people, "device"), await failures(people, "account")) == (5, 0)
    with pytest.raises(BadCredentials) as caught:
        await people.login.check("ann", RIGHT, at_home)
    assert caught.value.retry_after is not None
    await people.scope.fetch(
        "UPDATE auth.login_failures SET failures = %s WHERE kind = 'device' RETURNING kind",
        (MOST_OF_A_DEVICE,),
    )
    await refusal(people, "ann", WRONG, at_home)
    assert (await failures(people, "device"), await failures(people, "account")) == (20, 1)
    await refusal(people, "bob", WRONG, Client("203.0.113.6", device=device))
    assert await failures(people, "account") == 2


async def test_E8_one_source_gets_fifty_then_one_a_minute(people: People) -> None:
    """Trying one password on many names is held up too; who logs in is not counted against it."""
    await people.add()
    entered = [await people.try_login() for _ in range(3)]
    assert len({found.device for found in entered}) == 3
    assert await failures(people, "source") == 0
    await people.scope.fetch(
        "UPDATE auth.login_failures SET failures = %s, last_failed_at = clock_timestamp()"
        " WHERE kind = 'source' RETURNING kind",
        (MOST_OF_A_SOURCE,),
    )
    with pytest.raises(BadCredentials) as caught:
        await people.login.check("somebody", WRONG, HERE)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after <= timedelta(minutes=1)
    await time_passes(people, timedelta(minutes=1))
    await refusal(people, "somebody", WRONG)
    assert await failures(people, "source") == MOST_OF_A_SOURCE


async def test_a_lock_with_an_end_ends(people: People) -> None:
    """Until then the right password is refused; afterwards the login makes the user active."""
    user = await people.add()
    until = datetime.now(UTC) + timedelta(hours=1)
    await people.users.set_status(user.id, status=Status.LOCKED, until=until)
    await refusal(people, "ann", RIGHT)
    await people.users.set_status(user.id, status=Status.LOCKED, until=until - timedelta(hours=2))
    entered = await people.try_login()
    assert (entered.user.status, entered.user.locked_until) == (Status.ACTIVE, None)
    for status, end in ((Status.SUSPENDED, until), (Status.LOCKED, datetime(2030, 1, 1))):
        with pytest.raises(InvalidInput):
            await people.users.set_status(user.id, status=status, until=end)


async def test_an_old_hash_is_renewed_at_login(people: People) -> None:
    """With more expensive parameters; the password stays, and so does a hash that is up to date."""
    user = await people.add()
    hashes: list[str] = []
    for passes in (2, 3, 3):
        with PasswordHasher(passes=passes) as raised:
            await People(people.scope, raised, people.keyring).try_login()
        row = await people.scope.one(
            "SELECT password_hash FROM auth.users WHERE id = %s", (user.id,)
        )
        assert row is not None
        hashes.append(row[0])
    assert ["t=2" in hashes[0], "t=3" in hashes[1], hashes[1] == hashes[2]] == [True] * 3
    assert await people.try_login()


async def test_a_change_between_password_and_entry_is_seen(people: People) -> None:
    """Who is suspended while the password is compared does not get in."""
    user = await people.add()

    class Slow(PasswordHasher):
        async def verify(self, stored: str | None, password: str):
            verdict = await super().verify(stored, password)
            await people.users.set_status(user.id, status=Status.SUSPENDED)
            return verdict

    with Slow() as slow:
        await refusal(People(people.scope, slow, people.keyring), "ann", RIGHT)


async def test_D_hashing_is_bounded(hasher: PasswordHasher) -> None:
    """More tries than may wait are told so at once, and take no memory."""
    with PasswordHasher(at_once=1, waiting=3) as small:
        tries = [small.verify(None, "x") for _ in range(10)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert sum(isinstance(outcome, TooManyLogins) for outcome in outcomes) == 7
    for weak in ({"memory_kib": 1024}, {"passes": 1}, {"lanes": 0}):
        with pytest.raises(InvalidInput):
            PasswordHasher(**weak)


@pytest.mark.usefixtures("slow_waits")
async def test_D_a_source_is_an_address(people: People) -> None:
    """What is none is refused before anything is counted; one IPv6 line is one source."""
    await people.add()
    for ip in ("", "nowhere", "1.2.3.4.5", "::g", "1.2.3.4\r\n"):
        with pytest.raises(InvalidInput):
            await people.try_login(ip=ip)
    for n in range(5):
        await refusal(people, "ann", WRONG, Client(f"2001:db8::{n}"))
    with pytest.raises(BadCredentials) as caught:
        await people.login.check("ann", RIGHT, Client("2001:db8::ffff"))
    assert caught.value.retry_after is not None


def as_ids(entered: list[Authenticated]) -> set[UUID]:
    return {found.user.id for found in entered}


async def test_logins_at_once_all_enter(people: People) -> None:
    """Counters are locked in one order, so nobody deadlocks; each gets a device of their own."""
    users = [await people.add(f"user{n}") for n in range(4)]
    tries = [people.try_login(f"user{n % 4}") for n in range(16)]
    entered = await asyncio.gather(*tries)
    assert as_ids(list(entered)) == {user.id for user in users}
    assert len({found.device for found in entered}) == 16


async def test_no_user_is_proved_that_is_not_there(people: People) -> None:
    """A proof of an absent or foreign user is refused like a wrong password."""
    with pytest.raises(BadCredentials):
        await people.login.prove(uuid4(), RIGHT, HERE)


async def test_E8_no_member_touches_what_logins_count(people: People) -> None:
    """Whoever can run SQL in a tenant neither closes a colleague's account by writing failures, nor
    opens the guessing of passwords again by lowering, moving or deleting them; not their own
    either, because a stolen session would be enough to guess the password behind it.
    """
    olga, mona = (await people.add("olga")).id, (await people.add("mona")).id
    as_mona = people.scope.acting_as(Principal.user(mona))
    for name in ("olga", "mona"):
        with pytest.raises(BadCredentials):
            await people.try_login(name, "wrong")
    with pytest.raises(BadCredentials):
        await Login(as_mona, people.hasher, people.keyring).prove(mona, WRONG, HERE)
    before = await people.scope.fetch(COUNTERS)
    assert {row[0] for row in before} >= {"pair", "source", "account", "proof"}
    insert: LiteralString = (
        "INSERT INTO auth.login_failures (tenant_id, subject, kind, failures)"
        " VALUES (%s, %s, %s, 100)"
        " ON CONFLICT (tenant_id, subject) DO UPDATE SET failures = 100 RETURNING kind"
    )
    for subject, kind in (
        (account_subject(olga), "account"),
        (proof_subject(olga), "proof"),
        (account_subject(mona), "account"),
        (proof_subject(mona), "proof"),
        (bytes(32), "nobody"),
    ):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_mona.fetch(insert, (people.scope.tenant, subject, kind))
    changes: tuple[LiteralString, ...] = (
        "UPDATE auth.login_failures SET failures = failures - 1 RETURNING kind",
        "UPDATE auth.login_failures SET failures = failures RETURNING kind",
        "UPDATE auth.login_failures SET kind = 'source' RETURNING kind",
        "UPDATE auth.login_failures SET subject = sha256(subject) RETURNING kind",
        "UPDATE auth.login_failures SET last_failed_at = 'epoch' RETURNING kind",
        "DELETE FROM auth.login_failures RETURNING kind",
        "DELETE FROM auth.login_failures WHERE kind = 'proof' RETURNING kind",
    )
    for change in changes:
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            await as_mona.fetch(change)
    assert await people.scope.fetch(COUNTERS) == before


async def test_who_proves_themselves_starts_anew(people: People) -> None:
    """A person's own new password, asked for as that person: the old one is proved, what was
    counted is let go of, and all of it is said in the audit log to be theirs.
    """
    mona = await people.add("mona")
    mine = people.scope.acting_as(Principal.user(mona.id))
    with pytest.raises(BadCredentials):
        await people.try_login("mona", "wrong")
    users = Users(mine, people.hasher, people.keyring)
    with pytest.raises(BadCredentials):
        await users.change_password(mona.id, WRONG, HERE, password="another quiet lamp")
    assert await failures(people, "proof") == 1
    await users.change_password(mona.id, RIGHT, HERE, password="another quiet lamp")
    assert (await failures(people, "proof"), await failures(people, "account")) == (0, 0)
    told = await people.scope.fetch(
        "SELECT principal, action, success FROM audit.entries WHERE principal LIKE 'user:%%'"
        " ORDER BY occurred_at"
    )
    assert told == [
        (f"user:{mona.id}", "LOGIN", False),
        (f"user:{mona.id}", "UPDATE", True),
    ]


async def test_only_whoever_may_change_an_account_forgives_its_failures(people: People) -> None:
    """Letting somebody in again changes nothing where they are active already; the failures of
    an account go for that only where the account is theirs to change."""
    olga, mona = (await people.add("olga")).id, (await people.add("mona")).id
    with pytest.raises(BadCredentials):
        await people.try_login("olga", "wrong")
    as_mona = people.scope.acting_as(Principal.user(mona))
    with pytest.raises(EscalationRefused):
        await Users(as_mona, people.hasher, people.keyring).set_status(olga, status=Status.ACTIVE)
    assert await failures(people, "account") == 1
    await people.users.set_status(olga, status=Status.ACTIVE)
    assert await failures(people, "account") == 0
