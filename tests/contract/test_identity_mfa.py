"""The second factor: on after a correct code, every code good once, the seed readable nowhere."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace
from uuid import UUID

import pytest
from pyotp.totp import TOTP
from tests.fixtures.fix_identity import HERE, PASSWORD, People

from neolayer.errors import AccessDenied
from neolayer.identity import (
    Authenticated,
    BadCredentials,
    Client,
    CodeRequired,
    Credentials,
    SecondFactorConflict,
    WeakPassword,
    WrongCode,
)
from neolayer.identity.backoff import account_subject, code_subject
from neolayer.identity.totp import RECOVERY_CODES, STEP_SECONDS, matching_step, new_seed
from neolayer.keys import KeyringError
from neolayer.tenancy import Principal


def code(secret: str, *, step: int = 0) -> str:
    return TOTP(secret).generate_otp(int(time.time()) // STEP_SECONDS + step)


async def enrolled(people: People) -> tuple[UUID, str, tuple[str, ...]]:
    """A user whose codes are asked for, as if it had been confirmed an hour ago."""
    user = await people.add()
    enrolment = await people.users.mfa.begin(user.id)
    codes = await people.users.mfa.confirm(user.id, code=code(enrolment.secret))
    await people.scope.fetch(
        "UPDATE auth.users SET mfa_last_step = mfa_last_step - 120 WHERE id = %s RETURNING id",
        (user.id,),
    )
    return user.id, enrolment.secret, codes


async def enter(people: People, **second: str) -> Authenticated:
    return await people.login.check("ann", Credentials(PASSWORD, **second), HERE)


async def at_once(people: People, tries: int, **second: str) -> list[object]:
    """So many logins at the same time, each from somewhere else."""
    offered = Credentials(PASSWORD, **second)
    logins = [
        people.login.check("ann", offered, Client(f"198.51.100.{n}")) for n in range(1, tries + 1)
    ]
    return list(await asyncio.gather(*logins, return_exceptions=True))


def test_E7_a_code_is_good_one_step_either_way() -> None:
    """Clocks drift by up to half a minute; two steps off, other digits and no digits are refused.
    The codes are those of RFC 6238."""
    seed, now = b"12345678901234567890", 1111111109.0
    assert matching_step(seed, "081804", at=now) == 37037036
    assert matching_step(seed, " 081 804 ", at=now + STEP_SECONDS) == 37037036
    assert matching_step(seed, "081804", at=now - STEP_SECONDS) == 37037036
    for wrong in (now + 2 * STEP_SECONDS, now - 2 * STEP_SECONDS):
        assert matching_step(seed, "081804", at=wrong) is None
    for none in ("", "08180", "0818044", "abcdef", "٠٨١٨٠٤", "081804\x00", "9" * 100_000):
        assert matching_step(seed, none, at=now) is None
    assert new_seed() != new_seed()


async def test_E7_it_is_on_after_a_correct_code(people: People) -> None:
    """Until then nothing is asked for; a wrong code changes nothing; begun again, the first seed
    is void; on twice is a conflict."""
    user = await people.add()
    mfa = people.users.mfa
    with pytest.raises(SecondFactorConflict):
        await mfa.confirm(user.id, code="123456")
    first, second = await mfa.begin(user.id), await mfa.begin(user.id)
    assert second.uri.startswith("otpauth://totp/neolayer:ann%40example.com?secret=")
    with pytest.raises(WrongCode):
        await mfa.confirm(user.id, code=code(first.secret))
    assert (await people.try_login()).second_factor is False
    confirming = code(second.secret)
    codes = await mfa.confirm(user.id, code=confirming)
    assert len(set(codes)) == RECOVERY_CODES == await mfa.recovery_codes_left(user.id)
    assert all(len(c.replace("-", "")) * 5 >= 80 for c in codes)
    for refused in (mfa.begin(user.id), mfa.confirm(user.id, code=confirming)):
        with pytest.raises(SecondFactorConflict):
            await refused
    assert (await people.users.get(user.id)).mfa_enabled
    with pytest.raises(BadCredentials):
        await enter(people, code=confirming)


async def test_E7_a_code_enters_once(people: People) -> None:
    """So is the one that confirmed, and each earlier one."""
    user_id, secret, _ = await enrolled(people)
    with pytest.raises(CodeRequired):
        await people.try_login()
    noted = await people.scope.fetch(
        "SELECT resource_id, success, error_message FROM audit.entries WHERE action = 'LOGIN'"
    )
    assert noted == [(str(user_id), False, "a code is needed")]
    used = code(secret)
    assert (await enter(people, code=used)).second_factor
    for again in (used, code(secret, step=-1)):
        with pytest.raises(BadCredentials):
            await enter(people, code=again)


async def test_E7_of_twenty_with_one_code_one_enters(people: People) -> None:
    """The step is taken in one statement, so a code seen over a shoulder is worth nothing."""
    _, secret, _ = await enrolled(people)
    outcomes = await at_once(people, 20, code=code(secret))
    assert sum(isinstance(outcome, Authenticated) for outcome in outcomes) == 1
    assert sum(isinstance(outcome, BadCredentials) for outcome in outcomes) == 19


async def test_E7_of_twenty_with_one_recovery_code_one_enters(people: People) -> None:
    """And none later; spelled as people do; the others are still good."""
    user_id, _, codes = await enrolled(people)
    outcomes = await at_once(people, 20, recovery_code=codes[0])
    assert sum(isinstance(outcome, Authenticated) for outcome in outcomes) == 1
    with pytest.raises(BadCredentials):
        await enter(people, recovery_code=codes[0])
    assert await enter(people, recovery_code=codes[1].upper().replace("-", " "))
    assert await people.users.mfa.recovery_codes_left(user_id) == RECOVERY_CODES - 2
    with pytest.raises(BadCredentials):
        await enter(people, recovery_code="\ud800")


@pytest.mark.usefixtures("slow_waits")
async def test_E8_codes_cannot_be_guessed(people: People) -> None:
    """Wrong codes are failures like wrong passwords: they back off and end at a hundred."""
    await enrolled(people)
    for _ in range(5):
        with pytest.raises(BadCredentials) as caught:
            await enter(people, code="000000")
        assert caught.value.retry_after is None
    with pytest.raises(BadCredentials) as caught:
        await enter(people, code="000000")
    assert caught.value.retry_after is not None


async def test_E8_an_account_under_attack_takes_its_owners_code(people: People) -> None:
    """The password, then the code: two steps from one new address, after a hundred strangers."""
    user_id, secret, _ = await enrolled(people)
    await people.scope.fetch(
        "INSERT INTO auth.login_failures (tenant_id, subject, kind, failures)"
        " VALUES (%s, %s, 'account', 100) RETURNING kind",
        (people.scope.tenant, account_subject(user_id)),
    )
    with pytest.raises(CodeRequired):
        await enter(people)
    assert await enter(people, code=code(secret))


async def test_E8_codes_are_guessed_twenty_times_wherever_from(people: People) -> None:
    """Whoever has the password cannot guess codes from many addresses: after twenty wrong ones the
    right one is refused to unknown devices. A known device and a recovery code get in, and those
    without the password cannot bring it about."""
    user_id, secret, codes = await enrolled(people)
    known = await enter(people, code=code(secret))
    for n in range(1, 25):
        offered = Credentials("not the password at all", code="000000")
        with pytest.raises(BadCredentials):
            await people.login.check("ann", offered, Client(f"198.51.100.{n}"))
    assert (await codes_tried(people, user_id)) == 0
    await people.scope.fetch(
        "INSERT INTO auth.login_failures (tenant_id, subject, kind, failures, last_failed_at)"
        " VALUES (%s, %s, 'proof', 19, clock_timestamp() - interval '1 hour') RETURNING kind",
        (people.scope.tenant, code_subject(user_id)),
    )
    for n, offered in enumerate(("000000", code(secret, step=1)), start=50):
        with pytest.raises(BadCredentials):
            client = Client(f"198.51.100.{n}")
            await people.login.check("ann", Credentials(PASSWORD, code=offered), client)
        await people.scope.fetch(
            "UPDATE auth.login_failures SET last_failed_at = last_failed_at - interval '1 hour'"
            " RETURNING kind"
        )
    assert await codes_tried(people, user_id) == 20
    at_home = Client("198.51.100.90", device=known.device)
    await people.login.check("ann", Credentials(PASSWORD, code=code(secret, step=1)), at_home)
    assert await codes_tried(people, user_id) == 0
    elsewhere = Client("198.51.100.91")
    offered = Credentials(PASSWORD, recovery_code=codes[0])
    assert await people.login.check("ann", offered, elsewhere)


async def codes_tried(people: People, user_id: UUID) -> int:
    row = await people.scope.one(
        "SELECT coalesce(sum(failures), 0) FROM auth.login_failures WHERE subject = %s",
        (code_subject(user_id),),
    )
    assert row is not None
    return int(row[0])


async def test_E7_a_seed_opens_in_its_own_row_only(people: People) -> None:
    """The dump holds no seed; a sealed one copied to another user does not open."""
    user_id, secret, _ = await enrolled(people)
    other = await people.add("bob")
    row = await people.scope.one(
        "UPDATE auth.users AS b SET mfa_secret = a.mfa_secret, mfa_key_id = a.mfa_key_id,"
        " mfa_enabled = TRUE FROM auth.users AS a WHERE a.id = %s AND b.id = %s"
        " RETURNING a.mfa_secret, a.mfa_key_id",
        (user_id, other.id),
    )
    assert row is not None
    assert secret not in row[0]
    assert row[0] != row[1]
    with pytest.raises(KeyringError):
        await people.login.check("bob", Credentials(PASSWORD, code=code(secret)), HERE)


async def test_E5_a_second_factor_is_enrolled_with_a_proof(people: People) -> None:
    """Whoever has taken a session over cannot lock its owner out with an authenticator."""
    user, mfa = await people.add(), people.users.mfa
    with pytest.raises(BadCredentials):
        await mfa.enrol(user.id, Credentials("wrong"), HERE)
    with pytest.raises(SecondFactorConflict):
        await mfa.confirm(user.id, code="123456")
    enrolment = await mfa.enrol(user.id, Credentials(PASSWORD), HERE)
    assert await mfa.confirm(user.id, code=code(enrolment.secret))


async def test_recovery_codes_are_renewed_with_a_proof(people: People) -> None:
    """A stolen session is not enough; the old codes are void."""
    user_id, secret, codes = await enrolled(people)
    mfa = people.users.mfa
    for offered in (Credentials(PASSWORD, code="000000"), Credentials("wrong", code=code(secret))):
        with pytest.raises(BadCredentials):
            await mfa.renew_recovery_codes(user_id, offered, HERE)
    with pytest.raises(CodeRequired):
        await mfa.renew_recovery_codes(user_id, Credentials(PASSWORD), HERE)
    fresh = await mfa.renew_recovery_codes(user_id, Credentials(PASSWORD, code=code(secret)), HERE)
    assert not set(fresh) & set(codes)
    with pytest.raises(BadCredentials):
        await enter(people, recovery_code=codes[5])
    assert await enter(people, recovery_code=fresh[5])


@pytest.mark.usefixtures("slow_waits")
async def test_E8_a_proof_cannot_be_guessed(people: People) -> None:
    """Failures wait from the fifth on, and after twenty only a new login helps."""
    user_id, _, codes = await enrolled(people)
    wrong = Credentials("wrong", recovery_code=codes[0])
    for _ in range(5):
        with pytest.raises(BadCredentials):
            await people.login.prove(user_id, wrong, HERE)
    with pytest.raises(BadCredentials) as caught:
        await people.login.prove(user_id, replace(wrong, password=PASSWORD), HERE)
    assert caught.value.retry_after is not None
    await people.scope.fetch(
        "UPDATE auth.login_failures SET failures = 20, last_failed_at = now() - interval '1 day'"
        " WHERE kind = 'proof' RETURNING kind"
    )
    with pytest.raises(BadCredentials):
        await people.login.prove(user_id, replace(wrong, password=PASSWORD), HERE)
    await enter(people, recovery_code=codes[1])
    await people.login.prove(user_id, replace(wrong, password=PASSWORD), HERE)


async def test_it_ends_with_a_proof_and_a_long_password(people: People) -> None:
    """A password that needs a second factor beside it cannot stand alone; then codes are void."""
    user_id, secret, codes = await enrolled(people)
    short = "8 lamps!x"
    await people.users.set_password(user_id, password=short)
    mfa = people.users.mfa
    with pytest.raises(WeakPassword):
        await mfa.disable(user_id, Credentials(short, code=code(secret)), HERE)
    await people.users.set_password(user_id, password=PASSWORD)
    await mfa.disable(user_id, Credentials(PASSWORD, recovery_code=codes[0]), HERE)
    assert not (await people.try_login()).second_factor
    row = await people.scope.one(
        "SELECT mfa_secret, mfa_key_id, mfa_last_step,"
        " (SELECT count(*) FROM auth.recovery_codes) FROM auth.users WHERE id = %s",
        (user_id,),
    )
    assert row == (None, None, None, 0)
    with pytest.raises(WeakPassword):
        await people.users.set_password(user_id, password=short)


async def test_only_an_operator_takes_it_away_without_a_proof(people: People) -> None:
    """The user's own session may not: it could be stolen."""
    user_id, _, _ = await enrolled(people)
    own = replace(people, scope=people.scope.acting_as(Principal.user(user_id)))
    with pytest.raises(AccessDenied):
        await own.users.mfa.remove(user_id)
    await people.users.mfa.remove(user_id)
    assert not (await people.try_login()).second_factor
