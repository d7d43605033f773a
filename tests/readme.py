"""The README, for the tests that run it."""

import re
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def readme_blocks(language):
    """The README's code blocks of a language, in order."""
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)
