"""How a verb ends: the exit code, and the line about what failed."""

from __future__ import annotations

import sys

SOME_FAILED, USERS_MISTAKE, TO_BE_CHECKED = 1, 2, 3
EXIT_CODES = """exit codes:
  0    all is done
  1    some of it failed (a case, a command of the demo, a finding of the doctor); the rest is done
  2    nothing could be done: flags, files or settings, or a full disk; the message says what was expected
  3    all is done, but masks are to be checked (missmod predict --fail_flagged)
  130  ended by Ctrl-C      143  ended by SIGTERM; what is finished is kept
"""


def report_failures(failed: int, what: str = "case") -> int:
    """Say how many cases failed; give the exit code."""
    if failed:
        print(
            f"missmod: {failed} {what if failed == 1 else f'{what}s'} failed, see above; the others are done.",
            file=sys.stderr,
        )
    return SOME_FAILED if failed else 0
