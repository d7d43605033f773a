"""The command line `missmod`: its verbs, each a module beside this one, and what becomes of errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from nnunetv2_missmod import __version__
from nnunetv2_missmod.cli import (
    availability,
    calibrate,
    completion,
    convert,
    demo,
    doctor,
    doors,
    evaluate,
    fingerprint,
    models,
    phantom,
    plan,
    predict,
    report,
    restore_labels,
    run,
)
from nnunetv2_missmod.cli.exit_codes import EXIT_CODES, USERS_MISTAKE
from nnunetv2_missmod.cli.parser import Parser
from nnunetv2_missmod.machine.workers import INTERRUPTED, ending_cleanly

# In the order of the help. Each has MEANING, SENTENCE, EXAMPLE, add_flags and run, which imports what it needs when it
# is called: nnU-Net and torch take seconds to load.
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
    "models": models,
    "predict": predict,
    "evaluate": evaluate,
    "calibrate": calibrate,
    "report": report,
    "demo": demo,
    "completion": completion,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb. Mistakes of the user, and of the disk, are said in a line; the exit code is then 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = build_parser()
    check_verb(parser, arguments)
    parsed = parser.parse_args(arguments)
    try:
        with ending_cleanly():
            code: int = parsed.verb(parsed)
    except (ValueError, NotImplementedError, OSError) as error:
        print(f"missmod: {error}", file=sys.stderr)
        return USERS_MISTAKE
    except KeyboardInterrupt:
        print("missmod: ended. What is finished is kept.", file=sys.stderr)
        return INTERRUPTED
    return code


def check_verb(parser: Parser, arguments: Sequence[str]) -> None:
    """End with the nearest verb where the first word is none."""
    if not arguments or arguments[0].startswith("-") or arguments[0] in VERBS:
        return
    nearest = get_close_matches(arguments[0], VERBS, 1)
    meant = f"did you mean {nearest[0]}?" if nearest else f"they are {', '.join(VERBS)}"
    parser.error(f"there is no verb {arguments[0]!r}: {meant}")


def build_parser() -> Parser:
    """All verbs and their flags; the flags are nnU-Net's where nnU-Net has them."""
    return build_parsers()[0]


def build_parsers() -> tuple[Parser, dict[str, Parser]]:
    """The parser of the command, and those of its verbs by their names."""
    as_written = argparse.RawDescriptionHelpFormatter
    epilog = f"missmod VERB --help has the flags of a verb.\n\n{EXIT_CODES}"
    parser = Parser(
        "missmod", description="nnU-Net v2 when modalities are missing.", epilog=epilog, formatter_class=as_written
    )
    parser.add_argument("--version", action="version", version=f"nnunetv2_missmod {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    of_verb = {}
    for name, verb in VERBS.items():
        example = f"example:\n  {verb.EXAMPLE}"
        flags = verbs.add_parser(
            name, help=verb.MEANING, description=verb.SENTENCE, epilog=example, formatter_class=as_written
        )
        verb.add_flags(flags)
        flags.set_defaults(verb=verb.run)
        of_verb[name] = flags
    return parser, of_verb
