"""argparse's parser, which knows its flags by a public name: completion is written from them."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _MutuallyExclusiveGroup as Group  # argparse has no other name for it


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

    def add_mutually_exclusive_group(self, **kwargs: Any) -> Group:
        """Open a group of flags of which one may be given; its flags are remembered as well."""
        group = super().add_mutually_exclusive_group(**kwargs)
        add = group.add_argument

        def add_argument(*args: Any, **kwargs: Any) -> argparse.Action:
            self.flags.append(action := add(*args, **kwargs))
            return action

        group.add_argument = add_argument  # type: ignore[method-assign]
        return group
