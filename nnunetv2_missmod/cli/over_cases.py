"""What `missmod predict` and `missmod evaluate` do around their work on a folder of cases."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunetv2_missmod.cli.exit_codes import report_failures
from nnunetv2_missmod.cli.json_output import print_json, words_on_stderr
from nnunetv2_missmod.machine.chatter import chatter_kept_beside
from nnunetv2_missmod.machine.kept_memory import keep_freed_memory


def run_over_cases(
    parsed: argparse.Namespace,
    work: Callable[[argparse.Namespace], int],
    summary_of: Callable[[Path, int], dict[str, Any]],
) -> int:
    """Work on the cases, the chatter logged beside -o, say how many failed, and print what --json asks for.

    Args:
        parsed: the flags.
        work: counts the cases that failed.
        summary_of: what the folder then holds, and how many cases failed, as an object.

    Returns:
        The exit code.
    """
    if parsed.device == "cpu":
        keep_freed_memory()
    with chatter_kept_beside(parsed.o, parsed.verbose), words_on_stderr(parsed.json):
        failed = work(parsed)
        code = report_failures(failed)
    if parsed.json:
        print_json(summary_of(parsed.o, failed))
    return code
