"""One rule for the names of cases, modalities and regions: they become files, folders and cells of tables."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@")  # with which a cell of a table begins that a spreadsheet computes
SEPARATORS = "/\\"


def check_name(name: str, what: str) -> None:
    """Check that a name may become a file, a folder and a cell of a table.

    Args:
        name: of a case, a modality or a region.
        what: whose name it is, for the message.

    Raises:
        ValueError: says what is wrong with the name.
    """
    if wrong := whats_wrong(name):
        raise ValueError(f"Expected a name for {what} that can be a file's, got {name!r}, which {wrong}. Rename it.")


def whats_wrong(name: str) -> str:
    """Say what is wrong with a name; empty if nothing is."""
    findings = {
        "is empty": not name.strip(),
        "begins or ends with a blank": name != name.strip(),
        "has characters that cannot be printed": not name.isprintable(),
        "is a path": any(separator in name for separator in SEPARATORS),
        "begins with a dot": name.startswith("."),
        f"begins with {name[:1]}, as a spreadsheet's formula does": name.startswith(FORMULA),
    }
    return next((finding for finding, is_so in findings.items() if is_so), "")
