"""Passwords that many people use, and those that are almost one of them.

The lists are zxcvbn's: the 30,000 most used passwords, names, words of films and of Wikipedia. They
know only what stands in them, and `Dragon2024!!` stands in none. So a password is cut into the
fewest pieces that explain it: a listed word (also with 4 for a, 0 for o and the like), a walk
along the keyboard, the alphabet or the digits, a repetition, a year; any other character is a piece
of its own. A word that is not among the first thousands counts as two. Few pieces are few guesses.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from itertools import chain
from pathlib import Path

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
_SHORTEST_PIECE, _LONGEST_PIECE = 3, 24  # a listed phrase is longer: it counts as a whole only
# So many of the list, the first, are among the first guesses.
_WELL_KNOWN = {"passwords": 3_000, "female_names": 1_000, "male_names": 1_000}
_NEWER = (  # than the lists
    *("bitcoin", "ethereum", "binance", "coinbase", "cardano", "dogecoin", "blockchain", "crypto"),
    *("correcthorsebatterystaple", "pokemongo", "fortnite", "minecraft", "instagram", "netflix"),
)
_LONGEST_UNIT = 6  # of a repetition: xyzxyz, 121212


@cache
def common_words() -> Mapping[str, int]:
    """The listed words, each with the number of pieces it counts for.

    Read from the library's file of lists alone: the package's own import builds the dictionaries of
    its estimator too.
    """
    lists = _frequency_lists()
    words = dict.fromkeys(chain.from_iterable(lists.values()), 2)
    for name, most in _WELL_KNOWN.items():
        words.update(dict.fromkeys(lists[name][:most], 1))
    return words | dict.fromkeys(_NEWER, 1)


def _frequency_lists() -> dict[str, list[str]]:
    package = find_spec("zxcvbn")
    assert package is not None and package.origin is not None
    file = Path(package.origin).with_name("frequency_lists.py")
    spec = spec_from_file_location("zxcvbn_frequency_lists", file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.FREQUENCY_LISTS


def is_common(password: str) -> bool:
    """Whether a few guesses of somebody who knows what people do would find it."""
    return pieces(password) <= FEW_PIECES


def pieces(password: str) -> int:
    """Of how many pieces the password is made, at least."""
    typed = password.casefold()
    text = _SEPARATORS.sub("", typed)
    if typed in common_words() or text in common_words():
        return 1
    if (repeated := _repetition(text)) is not None:
        return repeated
    plain = text.translate(_PLAIN)
    fewest = [0]
    for end in range(1, len(text) + 1):
        explained = [1 + fewest[-1]]
        for start in range(max(0, end - _LONGEST_PIECE), end - 1):
            cost = _cost(text[start:end], plain[start:end])
            if cost is not None:
                explained.append(fewest[start] + cost)
        fewest.append(min(explained))
    return fewest[-1]


def _cost(text: str, plain: str) -> int | None:
    """For how many pieces this counts; None where nothing explains it."""
    if len(text) < _SHORTEST_PIECE:
        return None
    if len(set(text)) == 1 or _YEAR.fullmatch(text) or any(text in walk for walk in _WALKS):
        return 1
    words = common_words()
    return min((words[w] for w in (text, plain, text[::-1]) if w in words), default=None)


def _repetition(text: str) -> int | None:
    """The pieces of what is repeated, and one for repeating it; None where nothing is."""
    half = (text + text).find(text, 1)
    if half == len(text) or not text:
        return None
    if half <= _LONGEST_UNIT:
        return 1
    return 1 + pieces(text[:half])
