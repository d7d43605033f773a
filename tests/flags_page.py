"""docs/flags.md, made from the parsers: `make pages` writes it, and cli/test_flags_page.py holds it equal."""

import argparse
import re

from pages import REPOSITORY

from nnunetv2_missmod.cli.main import VERBS, build_parsers

PAGE = REPOSITORY / "docs" / "flags.md"
HEAD = """# Every flag

What `--help` says of each verb, on one page, which `make pages` writes from the parsers. What the verbs are for stands
in [command line](command_line.md).
"""
DEFAULT = re.compile(r"\s*\(default: ([^()]*)\)")
FLAG = re.compile(r"(?<![\w`-])--?[A-Za-z][\w-]*")


def flags_page():
    """The whole page."""
    parsers = build_parsers()[1]
    return HEAD + "".join(section(name, parser) for name, parser in parsers.items())


def section(name, parser):
    """One verb: its sentence, its example, and its flags."""
    verb = VERBS[name]
    example = verb.EXAMPLE.partition("   #")[0]
    text = f"\n## missmod {name}\n\n{prose(verb.SENTENCE)}\n\nExample: `{example}`\n"
    rows = [row(action, alternatives_of(action, parser)) for action in parser.flags if action.dest != "help"]
    return text + ("\n| flag | meaning | choices | default |\n|---|---|---|---|\n" + "".join(rows) if rows else "")


def alternatives_of(action, parser):
    """The flags of which one must be given, if this is among them."""
    groups = [group for group in parser._mutually_exclusive_groups if group.required]
    return next((group._group_actions for group in groups if action in group._group_actions), [])


def row(action, alternatives):
    """A flag's line; a default that its help says in brackets stands in the last column instead."""
    values = {**vars(action), "prog": "missmod"}
    said = DEFAULT.search(action.help % values)
    meaning = DEFAULT.sub("", action.help % values).strip()
    choices = ", ".join(f"`{choice}`" for choice in action.choices or ())
    default = prose(said[1]) if said else default_of(action, alternatives)
    return f"| {name_of(action)} | {prose(meaning)} | {choices} | {default} |\n"


def name_of(action):
    """A flag, all its names, with what it takes; or the word that is no flag."""
    if not action.option_strings:
        takes = action.metavar or action.dest
    elif action.choices:
        takes = "WORD"
    else:
        takes = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    takes += " ..." if action.nargs in ("+", "*", argparse.REMAINDER) else ""
    return cell(" or ".join(f"`{f'{name} {takes}'.strip()}`" for name in action.option_strings or [""]))


def default_of(action, alternatives):
    if alternatives:
        return "one of " + ", ".join(f"`{other.option_strings[0]}`" for other in alternatives)
    if action.required and action.nargs not in ("*", argparse.REMAINDER):
        return "required"
    is_none = action.default is None or action.default is False or action.default in ((), [])
    return "" if is_none else prose(str(action.default))


def prose(text):
    """Text in which flags stand as code and nothing else means anything in Markdown."""
    return cell(FLAG.sub(lambda flag: f"`{flag[0]}`", re.sub(r"([*_<>])", r"\\\1", text)))


def cell(text):
    return text.replace("|", r"\|")


if __name__ == "__main__":
    PAGE.write_text(flags_page(), encoding="utf-8")
