"""`missmod completion`: what a shell needs to complete verbs, flags and their words, written from the parsers."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping

from nnunetv2_missmod.cli.parser import Parser
from nnunetv2_missmod.host.doors import door_names

MEANING = "what a shell needs to complete verbs and flags"
SENTENCE = "Prints what bash, zsh or fish needs to complete verbs, flags and the words that a flag takes."
EXAMPLE = 'eval "$(missmod completion bash)"   # in ~/.bashrc; fish: missmod completion fish | source'

BASH = """_missmod() {{
    local word=${{COMP_WORDS[COMP_CWORD]}} verb=${{COMP_WORDS[1]}} words=
    if [ "$COMP_CWORD" -eq 1 ]; then
        words="{verbs}"
    elif [ "${{word#-}}" != "$word" ]; then
        case "$verb" in
{flags}
        esac
    else
        case "$verb ${{COMP_WORDS[COMP_CWORD-1]}}" in
{values}
        esac
    fi
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _missmod missmod
"""

ZSH = """#compdef missmod
_missmod() {{
    local verb=${{words[2]}}
    if (( CURRENT == 2 )); then
        compadd -- {verbs}
        return
    fi
    if [[ $PREFIX == -* ]]; then
        case "$verb" in
{flags}
        esac
    else
        case "$verb ${{words[CURRENT-1]}}" in
{values}
        esac
    fi
    _files
}}
compdef _missmod missmod
"""


def add_flags(verb: argparse.ArgumentParser) -> None:
    """Add the name of the shell."""
    verb.add_argument("shell", choices=tuple(SCRIPTS), help="bash, zsh or fish")


def run(parsed: argparse.Namespace) -> int:
    """Print the script of a shell."""
    from nnunetv2_missmod.cli.main import build_parsers  # noqa: PLC0415, which has this verb

    print(SCRIPTS[parsed.shell](build_parsers()[1]), end="")
    return 0


def bash(verbs: Mapping[str, Parser]) -> str:
    """Write the script for bash."""
    return _filled(BASH, verbs, '{indent}"{case}") words="{words}" ;;', " " * 8)


def zsh(verbs: Mapping[str, Parser]) -> str:
    """Write the script for zsh."""
    return _filled(ZSH, verbs, '{indent}"{case}") compadd -- {words}; return ;;', " " * 8)


def fish(verbs: Mapping[str, Parser]) -> str:
    """Write the script for fish."""
    lines = []
    for verb, parser in verbs.items():
        lines.append(f"complete -c missmod -f -n __fish_use_subcommand -a {verb}")
        seen = f"complete -c missmod -n '__fish_seen_subcommand_from {verb}'"
        for flag in parser.flags:
            values = f" -x -a {shlex.quote(words)}" if (words := " ".join(words_of(flag))) else ""
            names = "".join(f" {_as_fish_has_it(name)}" for name in flag.option_strings)
            takes = "" if values or flag.nargs == 0 or not names else " -r"
            if names or values:
                lines.append(f"{seen}{names}{values}{takes}")
    return "\n".join(lines) + "\n"


def words_of(flag: argparse.Action) -> list[str]:
    """List the words that a flag takes, if they are few."""
    if flag.dest in ("tr", "trainer"):
        return [*door_names(), "nnUNetTrainer"]
    return [str(choice) for choice in flag.choices or ()]


def _filled(script: str, verbs: Mapping[str, Parser], row: str, indent: str) -> str:
    values, flags = [], []
    for verb, parser in verbs.items():
        for flag in parser.flags:
            for name in flag.option_strings if words_of(flag) else ():
                values.append(row.format(indent=indent, case=f"{verb} {name}", words=" ".join(words_of(flag))))
            if not flag.option_strings and words_of(flag):
                values.append(row.format(indent=indent, case=f"{verb} {verb}", words=" ".join(words_of(flag))))
        names = " ".join(name for flag in parser.flags for name in flag.option_strings)
        flags.append(row.format(indent=indent, case=verb, words=names))
    return script.format(verbs=" ".join(verbs), values="\n".join(values), flags="\n".join(flags))


def _as_fish_has_it(name: str) -> str:
    if name.startswith("--"):
        return f"-l {name[2:]}"
    return f"-s {name[1:]}" if len(name) == 2 else f"-o {name[1:]}"


SCRIPTS = {"bash": bash, "zsh": zsh, "fish": fish}
