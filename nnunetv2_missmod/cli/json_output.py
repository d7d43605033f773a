"""``--json``: one object on standard output, and all else that is said on standard error."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any


def add_json(verb: argparse.ArgumentParser, what: str) -> None:
    """Add the flag; ``what`` is in the object."""
    verb.add_argument("--json", action="store_true", help=f"print {what} as JSON, and all else on standard error")


@contextmanager
def words_on_stderr(as_json: bool) -> Iterator[None]:
    """Keep standard output free for the object, if there is to be one."""
    if not as_json:
        yield
        return
    with redirect_stdout(sys.stderr):
        yield


def print_json(content: Mapping[str, Any]) -> None:
    """Print the object."""
    print(json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False))
