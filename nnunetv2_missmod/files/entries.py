"""Entries of a JSON file: what a value must be, and the one line that says what is wrong with it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from reprlib import Repr
from typing import Any, NamedTuple, NoReturn

from nnunetv2_missmod.files.names import whats_wrong

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = 120


class Kind(NamedTuple):
    """What a value must be: a test, and the words for it."""

    fits: Callable[[Any], bool]
    words: str


@dataclass(frozen=True)
class Place:
    """Where entries stand.

    Args:
        file: it, or what else to call it.
        part: of the file, such as "of configuration 3d_fullres".
        mend: the way out.
    """

    file: str
    part: str = ""
    mend: str = "Correct it."

    def check(self, key: str, value: Any, kind: Kind) -> None:
        """Check an entry's value.

        Raises:
            ValueError: names file and entry.
        """
        if not kind.fits(value):
            self.refuse(key, kind.words, value)

    def check_all(self, content: Mapping[str, Any], kinds: Mapping[str, Kind], prefix: str = "") -> None:
        """Check that all of these entries are there and what they must be.

        Raises:
            ValueError: names file and entry.
        """
        for key, kind in kinds.items():
            if key not in content:
                raise ValueError(
                    f"{self.file}: expected {self.named(prefix + key)}, {kind.words}, got none. {self.mend}"
                )
            self.check(prefix + key, content[key], kind)

    def refuse(self, key: str, words: str, value: Any) -> NoReturn:
        """Say what is wrong with an entry.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"{self.file}: expected {self.named(key)} to be {words}, got {_SHORT.repr(value)}. {self.mend}"
        )

    def named(self, key: str) -> str:
        """Name an entry in full."""
        return f"{key} {self.part}".strip()


def is_whole(value: Any, least: int = 0, most: float = sys.float_info.max) -> bool:
    """Tell whether a value is a whole number, which true and false are not, within limits."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_finite(value: Any) -> bool:
    """Tell whether a value is a number that a float can hold, neither NaN nor infinity."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def is_positive(value: Any) -> bool:
    """Tell whether a value is a finite number above zero."""
    return is_finite(value) and value > 0


def is_file_name(value: Any) -> bool:
    """Tell whether a value is a word that can be the name of a file."""
    return isinstance(value, str) and not whats_wrong(value)


def is_word(value: Any) -> bool:
    """Tell whether a value can be the name of a class."""
    return isinstance(value, str) and value.isascii() and value.isidentifier() and not value.startswith("_")


def is_list(value: Any, fits: Callable[[Any], bool], lengths: tuple[int, ...] = ()) -> bool:
    """Tell whether a value is a list of values that fit, of one of these lengths if any are given."""
    return isinstance(value, (list, tuple)) and all(map(fits, value)) and (not lengths or len(value) in lengths)


FLAG = Kind(lambda value: isinstance(value, bool), "true or false")
TABLE = Kind(lambda value: isinstance(value, Mapping), "keys with values in braces")
FILE_NAME = Kind(is_file_name, "a name that can be a file's")
WORD = Kind(is_word, "the name of a class")
