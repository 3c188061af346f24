"""Names and passwords: what is taken, in which form."""

from __future__ import annotations

import asyncio
import random
import string
import subprocess
import sys

import idna
import pytest

from neolayer.identity import InvalidName, PasswordHasher, WeakPassword
from neolayer.identity.common_passwords import common_words, is_common
from neolayer.identity.model import canonical_email, canonical_username
from neolayer.identity.passwords import acceptable


@pytest.mark.parametrize(
    "email",
    [
        *("", "ann", "@x.example", "ann@", "ann@localhost", "a@b@c.example", "ann @x.example"),
        *("a..b@x.example", "ann@x.example\r\nBcc: x@y.example", "ann\x00@x.example"),
        *("аnn@x.example", "ann\u200b@x.example", "\u202eann@x.example", "ann@\ud800.example"),
        *("a" * 65 + "@x.example", "a@" + "b." * 130 + "example", "x" * 10_000_000),
        *("ann@[127.0.0.1]", "ann@x.example.", "'; DROP TABLE auth.users; --@x.example"),
        *("\u212aate@x.example", "KATE@\u212a.example", "ann@\uff58.example", "\uff21nn@x.example"),
        *("ann@ba\u017feline.example", "ann@\u2121.example", "ann@of\ufb01ce.example"),
        *(
            "ann@ex\u00adample.example",
            "ann@x\u3002example",
            "ann@\u00aa.example",
            "ann@x\u2024b.c",
        ),
    ],
    ids=range(31),
)
def test_D_an_address_that_is_none_is_refused(email: str) -> None:
    """Before any SQL, with an error that does not repeat it."""
    with pytest.raises(InvalidName) as caught:
        canonical_email(email)
    assert not email or email[:50] not in caught.value.message


@pytest.mark.parametrize(
    "username",
    [
        *(
            "",
            "a b",
            "ann@x",
            "аnn",
            "ann\u200d",
            "-ann",
            "ann..b",
            "x" * 65,
            "a\nb",
            "ann\x00",
            "é",
        ),
        *("\u212aate", "\uff41nn", "ann\uff0eb", "an\u207f"),
    ],
    ids=range(15),
)
def test_D_a_user_name_that_is_none_is_refused(username: str) -> None:
    """Look-alikes, controls and what could be read as an address among them."""
    with pytest.raises(InvalidName):
        canonical_username(username)


def test_D_domains_of_every_script_keep_their_one_form() -> None:
    """Composed or not, in capitals or not; letters that mean something are kept."""
    for typed, form in {
        "BU\u0308CHER.example": "b\u00fccher.example",
        "XN--BCHER-KVA.example": "b\u00fccher.example",
        "stra\u00dfe.example": "stra\u00dfe.example",
        "\u0928\u0939\u0940\u0902.example": "\u0928\u0939\u0940\u0902.example",
        "\u0958\u0930.example": "\u0915\u093c\u0930.example",
        "\u4f8b\u3048.example": "\u4f8b\u3048.example",
        "\u1100\u1161.example": "\uac00.example",
    }.items():
        email = canonical_email(f"Ann@{typed}")
        assert email.isascii() and email.startswith("ann@xn--")
        assert idna.decode(email.partition("@")[2]) == form


@pytest.mark.parametrize(
    ("password", "mfa"),
    [
        ("fourteen chars", False),
        ("seven c", True),
        ("x" * 257, False),
        ("1" * 1_000_000, False),
        ("half a character \ud800", False),
        ("passwordpassword", False),
        ("P@ssw0rd12345678", False),
        ("qwertyuiopasdfgh", False),
        ("123456789012345", False),
        ("aaaaaaaaaaaaaaaa", False),
        ("iloveyouforever2020", False),
        ("correct horse battery staple", False),
        ("dragon99", True),
        ("trustno1", True),
        ("my neolayer login!", False),
        ("i am ann.smith!!", False),
        ("Example is my home", False),
    ],
)
def test_D_weak_passwords_are_refused(password: str, mfa: bool) -> None:
    """Too short for what else is asked, too long, common, near common, or about the person."""
    personal = ("ann.smith", "example", "neolayer")
    with pytest.raises(WeakPassword) as caught:
        acceptable(password, mfa=mfa, personal=personal)
    assert password not in caught.value.message


@pytest.mark.parametrize(
    "password",
    [
        "quiet lamp orbits seven",
        "purple elephants dance quietly",
        "correct horse battery staple, twice",
        " leading and trailing ",
        "no digits no signs at all",
        "\U0001f98a\U0001f30d" * 3 + " zwölf Boxkämpfer",
        "ünïcödé wörks hêré",
        *(("lamp zebra " * 24)[:n] + "fox" for n in (61, 253)),
    ],
    ids=range(9),
)
async def test_D_long_passwords_match_exactly(hasher: PasswordHasher, password: str) -> None:
    """64 and more characters, blanks, any script: composed, never cut, no rules of composition."""
    text = acceptable(password, mfa=False, personal=("ann",))
    stored = await hasher.hash(text)
    assert (await hasher.verify(stored, password)).matches
    for wrong in (password[:-1], password + " ", password.swapcase(), password.strip() + "!"):
        assert not (await hasher.verify(stored, wrong)).matches


async def test_D_passwords_are_composed(hasher: PasswordHasher) -> None:
    """The same letters typed on another keyboard are the same password."""
    stored = await hasher.hash("zwo\u0308lf Boxka\u0308mpfer jagen")
    assert (await hasher.verify(stored, "zw\u00f6lf Boxk\u00e4mpfer jagen")).matches


def test_D_the_top_3000_passwords_are_refused() -> None:
    """Each of the first 3,000 of eight characters and more, capital letters or not; and each of the
    list's other entries."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    listed = [word for word in FREQUENCY_LISTS["passwords"] if len(word) >= 8]
    assert len(listed) > 10_000
    for word in listed[:3000]:
        for typed in (word, word.title()):
            with pytest.raises(WeakPassword):
                acceptable(typed, mfa=True, personal=())
    assert all(map(is_common, listed))


def test_D_thousands_of_common_passwords_are_refused() -> None:
    """Well-known words as people vary them; and hardly ever what is random."""
    varied = {
        text
        for word in [word for word, cost in common_words().items() if cost == 1][::4]
        for text in (word, f"{word}1", f"{word.title()}123!", f"{word}2024", word + word)
        if len(word) >= 3 and len(text) >= 8
    }
    assert len(varied) > 3_000
    assert [text for text in varied if not is_common(text)] == []
    chance = random.Random(20)
    letters = string.ascii_letters + string.digits
    by_chance = ["".join(chance.choices(letters, k=12)) for _ in range(1000)]
    assert not any(map(is_common, by_chance))


def test_the_lists_are_read_without_the_estimator() -> None:
    """Not at import, and without the dictionaries that zxcvbn builds when it is imported."""
    program = (
        "import sys; from neolayer.identity import common_passwords as c;"
        " assert not c.common_words.cache_info().currsize;"
        " assert c.is_common('Dragon2024!!') and 'zxcvbn.matching' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


async def test_others_go_on_while_a_password_is_hashed(hasher: PasswordHasher) -> None:
    """Hashing and comparing take a thread: the event loop turns all the while."""
    for work in (hasher.hash("a long enough password"), hasher.verify(None, "whatever it is")):
        hashing, turns = asyncio.ensure_future(work), 0
        while not hashing.done():
            await asyncio.sleep(0)
            turns += 1
        await hashing
        assert turns > 10
