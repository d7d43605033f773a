"""The command line `missmod`: its verbs, each a module beside this one, and what becomes of errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from nnunetv2_missmod import __version__
from nnunetv2_missmod.cli import (
    availability,
    convert,
    demo,
    doctor,
    doors,
    evaluate,
    fingerprint,
    phantom,
    plan,
    predict,
    report,
    restore_labels,
    run,
)
from nnunetv2_missmod.machine.workers import INTERRUPTED, ending_cleanly

# In the order of the help. Each has MEANING, add_flags and run, which imports what it needs when it is called: nnU-Net
# and torch take seconds to load.
VERBS = {
    "doors": doors,
    "run": run,
    "doctor": doctor,
    "phantom": phantom,
    "convert": convert,
    "availability": availability,
    "fingerprint": fingerprint,
    "restore-labels": restore_labels,
    "plan": plan,
    "predict": predict,
    "evaluate": evaluate,
    "report": report,
    "demo": demo,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Mistakes of the user, and of the disk, are said in a line; the exit code is then 2."""
    parsed = build_parser().parse_args(arguments)
    try:
        with ending_cleanly():
            code: int = parsed.verb(parsed)
    except (ValueError, NotImplementedError, OSError) as error:
        print(f"missmod: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("missmod: ended. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED
    return code


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their flags; the flags are nnU-Net's where nnU-Net has them."""
    parser = argparse.ArgumentParser("missmod", description="nnU-Net v2 when modalities are missing.")
    parser.add_argument("--version", action="version", version=f"nnunetv2_missmod {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    for name, verb in VERBS.items():
        flags = verbs.add_parser(name, help=verb.MEANING)
        verb.add_flags(flags)
        flags.set_defaults(verb=verb.run)
    return parser
