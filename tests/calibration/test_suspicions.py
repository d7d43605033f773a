"""The sentences about files that may be mixed up."""

import pytest

from nnunetv2_missmod.calibration.suspicions import Suspicion, words_of, words_of_unfamiliar

MODALITIES = ["FLAIR", "T1", "T1c", "T2"]


@pytest.mark.parametrize(
    ("suspicions", "sentence"),
    [
        ([], ""),
        (
            [(1, 3, 0.984), (3, 1, 0.971)],
            "the file for T1 looks like T2 (0.98); the file for T2 like T1 (0.97): exchanged?",
        ),
        ([(1, 3, 0.9999)], "the file for T1 looks like T2 (0.99): the wrong file?"),
        (
            [(0, 3, 0.96), (1, 3, 0.97)],
            "the file for FLAIR looks like T2 (0.96); the file for T1 like T2 (0.97): the wrong files?",
        ),
        (
            [(0, 1, 0.96), (1, 2, 0.96), (2, 0, 0.96)],
            "the file for FLAIR looks like T1 (0.96); the file for T1 like T1c (0.96); the file for T1c like FLAIR "
            "(0.96): exchanged?",
        ),
    ],
)
def test_what_is_suspected_is_said_in_one_sentence(suspicions, sentence):
    assert words_of([Suspicion(*suspicion) for suspicion in suspicions], MODALITIES) == sentence


def test_what_is_not_judged_is_said():
    assert words_of_unfamiliar([], MODALITIES) == ""
    expected = "unlike every training file, so whether it is the right one is unknown: T1, T2"
    assert words_of_unfamiliar([1, 3], MODALITIES) == expected
