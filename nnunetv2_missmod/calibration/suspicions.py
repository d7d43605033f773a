"""What is suspected of the files of a case, and the sentence that says so."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Suspicion(NamedTuple):
    """A file that looks like another sequence than its name says."""

    channel: int  # that the file is named after
    looks_like: int  # the channel whose sequence it seems to hold
    probability: float  # that it does


def words_of(suspicions: Sequence[Suspicion], modalities: Sequence[str]) -> str:
    """Say what is suspected: "the file for T1 looks like T2 (0.98); the file for T2 like T1 (0.98): exchanged?".

    Args:
        suspicions: of one case.
        modalities: names of the channels.

    Returns:
        The sentence, without the name of the case; empty if nothing is suspected.
    """
    verbs = ["looks like", *["like"] * len(suspicions)]
    found = [
        f"the file for {modalities[channel]} {verb} {modalities[other]} ({_rounded(probability)})"
        for (channel, other, probability), verb in zip(suspicions, verbs, strict=False)
    ]
    return f"{'; '.join(found)}: {_question(suspicions)}" if found else ""


def words_of_unfamiliar(channels: Sequence[int], modalities: Sequence[str]) -> str:
    """Say which files were not judged; empty if all were.

    Args:
        channels: whose files no training file looks like.
        modalities: names of the channels.
    """
    names = ", ".join(modalities[channel] for channel in channels)
    return f"unlike every training file, so whether it is the right one is unknown: {names}" if names else ""


def _rounded(probability: float) -> str:
    return f"{min(probability, 0.99):.2f}"  # no more certain than a few dozen training cases can make it


def _question(suspicions: Sequence[Suspicion]) -> str:
    """What may have happened: files that take one another's places were exchanged, a file alone is the wrong one."""
    if {suspicion.channel for suspicion in suspicions} == {suspicion.looks_like for suspicion in suspicions}:
        return "exchanged?"
    return "the wrong file?" if len(suspicions) == 1 else "the wrong files?"
