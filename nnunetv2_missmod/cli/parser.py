"""argparse's parser, which knows its flags by a public name: completion is written from them."""

from __future__ import annotations

import argparse
from typing import Any


class Parser(argparse.ArgumentParser):
    """A parser of a command or a verb.

    Attributes:
        flags: all that it was given, in their order.
    """

    def __init__(self, *args: Any, **kwargs: Any):
        self.flags: list[argparse.Action] = []
        super().__init__(*args, **kwargs)

    def add_argument(self, *args: Any, **kwargs: Any) -> argparse.Action:
        """Add a flag and remember it."""
        action = super().add_argument(*args, **kwargs)
        self.flags.append(action)
        return action
