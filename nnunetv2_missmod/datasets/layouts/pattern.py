"""Any folder whose files are named by a rule: the user says the rule."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunetv2_missmod.datasets.layouts.archive import Found, cases_of, examples, files_below
from nnunetv2_missmod.datasets.layouts.label_names import Values, scheme_of
from nnunetv2_missmod.datasets.layouts.source import Source

CASE, MODALITY, SUBJECT = "case", "modality", "subject"


@dataclass(frozen=True)
class PatternLayout:
    """How files are named, relative to the folder.

    A pattern is a path with the fields {case}, {modality} and, if the names tell the patient, {subject}; * stands for
    what varies within a name. A field that is there twice is the same text both times. Capital letters count only
    where a file fits to the letter as well, or where they tell two modalities apart.

    Args:
        images: such as {case}/{case}_{modality}.nii.gz.
        modalities: the text that stands for each in the files' names, in channel order.
        label: such as {case}/{case}_seg.nii.gz; None for cases without labels.
        labels: the values of each label in the source's files; see ``label_names``.
    """

    images: str
    modalities: Mapping[str, str]
    label: str | None = None
    labels: Mapping[str, Values] = field(default_factory=dict)


def parse_modalities(texts: Sequence[str]) -> dict[str, str]:
    """Read NAME=TEXT, such as T1c=t1ce; NAME alone stands for NAME=NAME.

    Raises:
        ValueError: a name or text is empty or there twice.
    """
    modalities: dict[str, str] = {}
    for text in texts:
        name, equals, in_files = (part.strip() for part in text.partition("="))
        in_files = in_files if equals else name
        if not name or not in_files or "/" in in_files:
            raise ValueError(
                f"Expected modalities as NAME=TEXT, the text as in the files, such as T1c=t1ce, got {text!r}."
            )
        if name in modalities or in_files in modalities.values():
            raise ValueError(f"Expected each modality, and each text for one, once, got {text!r} again: remove it.")
        modalities[name] = in_files
    return modalities


def read_pattern(folder: Path, pattern: PatternLayout) -> Source:
    """Read the cases whose files a pattern describes; other files are left out.

    Raises:
        ValueError: a pattern is wrong, no image fits, or a case is there twice.
    """
    _check_complete(pattern)
    files = files_below(folder)
    found = _found(folder, files, pattern)
    _check_found(folder, files, found, pattern)
    name = re.sub(r"[^A-Za-z0-9]+", "", folder.name) or "Pattern"
    return Source(
        "pattern",
        name,
        tuple(pattern.modalities),
        scheme_of(pattern.labels),
        cases_of(found, tuple(pattern.modalities)),
    )


def _check_found(folder: Path, files: Sequence[Path], found: Iterable[Found], pattern: PatternLayout) -> None:
    modalities = {part.modality for part in found}
    like = f"none among {len(files)} files such as {examples((file.relative_to(folder) for file in files), 2)}"
    if not modalities - {None}:
        raise ValueError(
            f"Expected images {pattern.images} below {folder} with {{modality}} one of "
            f"{', '.join(pattern.modalities.values())}, found {like}. Patterns are relative to the folder."
        )
    if pattern.label and None not in modalities:
        raise ValueError(
            f"Expected labels {pattern.label} below {folder}, found {like}. Leave their pattern out if there are none."
        )


def _check_complete(pattern: PatternLayout) -> None:
    if not pattern.modalities:
        raise ValueError(
            "Expected the modalities of the pattern in channel order, such as FLAIR=flair T1c=t1ce, got none."
        )
    if pattern.label and not pattern.labels:
        raise ValueError(f"Expected the labels of {pattern.label}, such as lesion=1, got none: name them.")
    if pattern.labels and not pattern.label:
        raise ValueError("Expected the pattern of the files of the labels, such as {case}/{case}_seg.nii.gz, got none.")


def _expression(
    pattern: str, modalities: Collection[str], required: Iterable[str], to_the_letter: bool
) -> re.Pattern[str]:
    """The regular expression of a pattern; the longest text for a modality is tried first."""
    allowed = (*required, SUBJECT)
    texts = "|".join(re.escape(text) for text in sorted(modalities, key=len, reverse=True))
    any_case = "(?:" if to_the_letter else "(?i:"
    if len({text.lower() for text in modalities}) == len(set(modalities)):
        texts = f"{any_case}{texts})"
    expression, seen = "", set()
    for piece in re.split(r"(\{[^{}]*\}|\*)", pattern.replace("\\", "/").removeprefix("./")):
        name = piece[1:-1] if piece.startswith("{") else None
        if name is None:
            expression += "[^/]*" if piece == "*" else f"{any_case}{re.escape(piece)})"
        elif name not in allowed:
            fields = ", ".join(f"{{{field}}}" for field in allowed)
            raise ValueError(f"Expected no fields but {fields} in {pattern!r}, got {piece}: use * for what varies.")
        else:
            new = f"(?P<{name}>{texts if name == MODALITY else '[^/]+?'})"
            expression += f"(?P={name})" if name in seen else new
            seen.add(name)
    if missing := [name for name in required if name not in seen]:
        raise ValueError(f"Expected {{{missing[0]}}} in the pattern {pattern!r}, found it nowhere. Add it.")
    return re.compile(expression)


def _found(folder: Path, files: Iterable[Path], pattern: PatternLayout) -> list[Found]:
    """Files that fit to the letter, and those that fit but for capital letters where nothing fits to the letter."""
    found = list(_fitting(folder, files, pattern, to_the_letter=True))
    parts = {(part.case, part.modality) for part in found}
    taken = {part.file for part in found}
    rest = [file for file in files if file not in taken]
    others = _fitting(folder, rest, pattern, to_the_letter=False)
    return found + [part for part in others if (part.case, part.modality) not in parts]


def _fitting(folder: Path, files: Iterable[Path], pattern: PatternLayout, to_the_letter: bool) -> Iterable[Found]:
    texts = pattern.modalities
    images = _expression(pattern.images, texts.values(), (CASE, MODALITY), to_the_letter)
    labels = _expression(pattern.label, (), (CASE,), to_the_letter) if pattern.label else None
    names = {text.lower(): name for name, text in texts.items()} | {text: name for name, text in texts.items()}
    for file in files:
        path = file.relative_to(folder).as_posix()
        if match := images.fullmatch(path):
            modality = names.get(match[MODALITY]) or names[match[MODALITY].lower()]
            yield Found(match[CASE], file, modality, subject=match.groupdict().get(SUBJECT))
        elif labels and (match := labels.fullmatch(path)):
            yield Found(match[CASE], file, None, subject=match.groupdict().get(SUBJECT))
