"""Passwords that many people use, and those that are almost one of them.

A list knows only what stands in it, and `Dragon2024!!` stands in none. So a password is cut into
the fewest pieces that explain it: a listed word (also with 4 for a, 0 for o and the like), a walk
along the keyboard, the alphabet or the digits, a repetition, a year; any other character is a piece
of its own. Few pieces are few guesses.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

FEW_PIECES = 4
_ROWS = (
    "abcdefghijklmnopqrstuvwxyz",
    "01234567890",
    *("qwertyuiop[]", "asdfghjkl;'", "zxcvbnm,./", "1234567890-=", "!@#$%^&*()_+"),
    *("qwertzuiop", "yxcvbnm", "azertyuiop", "qsdfghjklm", "wxcvbn"),
    *("1q2w3e4r5t6y7u8i9o0p-[=]", "q1w2e3r4t5y6u7i8o9p0", "1qaz2wsx3edc4rfv5tgb6yhn7ujm8ik,9ol."),
    *("qazwsxedcrfvtgbyhnujmikolp", "zaqxswcdevfrbgtnhymju", "zaq12wsxcde34rfvbgt56yhnmju78"),
    *("a1s2d3f4g5h6j7k8l9", "a1b2c3d4e5f6g7h8i9", "1a2b3c4d5e6f7g8h9i", "123456789101112131415"),
)
_WALKS = tuple(walk for row in _ROWS for walk in (row, row[::-1]))
_PLAIN = str.maketrans("4@831!05$7+", "aabeiiosstt")
_YEAR = re.compile(r"(19|20)\d\d")
_SEPARATORS = re.compile(r"[\s._-]+")
_LONGEST_UNIT = 6  # of a repetition: xyzxyz, 121212


@cache
def common_words() -> frozenset[str]:
    """The words of the list that ships with us."""
    text = (resources.files("neolayer.identity") / "common_passwords.txt").read_text(
        encoding="utf-8"
    )
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return frozenset(word for line in lines for word in line.split())


def is_common(password: str) -> bool:
    """Whether a few guesses of somebody who knows what people do would find it."""
    return pieces(password) <= FEW_PIECES


def pieces(password: str) -> int:
    """Of how many pieces the password is made, at least."""
    text = _SEPARATORS.sub("", password.casefold())
    if (repeated := _repetition(text)) is not None:
        return repeated
    plain = text.translate(_PLAIN)
    fewest = [0]
    for end in range(1, len(text) + 1):
        starts = range(max(0, end - _longest_word()), end - 1)
        explained = [fewest[s] for s in starts if _is_piece(text[s:end], plain[s:end])]
        fewest.append(1 + min([fewest[-1], *explained]))
    return fewest[-1]


@cache
def _longest_word() -> int:
    return max(map(len, common_words()))


def _is_piece(text: str, plain: str) -> bool:
    words = common_words()
    if len(text) >= 3 and (text in words or plain in words or text[::-1] in words):
        return True
    if len(text) == 4 and _YEAR.fullmatch(text):
        return True
    return len(text) >= 3 and (len(set(text)) == 1 or any(text in walk for walk in _WALKS))


def _repetition(text: str) -> int | None:
    """The pieces of what is repeated, and one for repeating it; None where nothing is."""
    half = (text + text).find(text, 1)
    if half == len(text) or not text:
        return None
    if half <= _LONGEST_UNIT:
        return 1
    return 1 + pieces(text[:half])
