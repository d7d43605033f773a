"""How a verb ends: the exit code, and the line about what failed."""

from __future__ import annotations

import sys


def report_failures(failed: int, what: str = "case") -> int:
    """Say how many cases failed; give the exit code."""
    if failed:
        print(
            f"missmod: {failed} {what if failed == 1 else f'{what}s'} failed, see above; the others are done.",
            file=sys.stderr,
        )
    return int(failed > 0)
