"""The model of the sequences, learnt from training cases, and its thresholds from cases that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import combinations, permutations
from typing import NamedTuple

import numpy as np
from scipy import stats
from scipy.special import expit, logit

from nnunetv2_missmod.calibration.sequence_features import NUM_FEATURES
from nnunetv2_missmod.calibration.sequence_model import (
    CLIP,
    LEAST_DEVIATION,
    Array,
    Features,
    SequenceModel,
    exchange_odds,
)
from nnunetv2_missmod.calibration.suspicions import Suspicion

LEAST_CASES = 10  # of each sequence
FOLDS = 5
STRENGTH = 1.0  # inverse of the ridge penalty, scikit-learn's C; chosen on real cases (benchmarks/README.md)
FALSE_ALARMS = 0.01  # share of untouched cases, half of it for exchanged pairs, half for files that look like another
LEAST_PROBABILITY = 0.95  # that names are wrong, below which nothing is said however well cases are told apart
EXCHANGED_IN_TRAINING = 0.999  # probability from which a training case is not learnt from, but named

Cases = Mapping[str, Features]
Found = Mapping[int, Array]  # of a case: log-probabilities (M,) by channel


class Unseen(NamedTuple):
    """What a model that has not seen a case says of one of its files."""

    case: str
    channel: int
    log_probabilities: Array  # (M,)
    strangeness: float


class SequenceFit(NamedTuple):
    """What training cases teach about the sequences."""

    model: SequenceModel | None
    why: str  # there is no model; empty if there is one
    doubtful: dict[str, list[Suspicion]]  # training cases whose files look exchanged, which were left out


def fit_sequences(cases: Cases, modalities: Sequence[str]) -> SequenceFit:
    """Learn to tell the sequences apart.

    The names of the training cases' files are taken to be true, but for pairs of files that a model of the other cases
    takes for one another almost surely: one such case would raise the threshold of its pair beyond use.

    Args:
        cases: what ``case_features`` gives of each training case; channels may be absent.
        modalities: names of the channels.
    """
    if why := _too_little(cases, modalities):
        return SequenceFit(None, why, {})
    found, familiar_up_to = _held_out(cases, len(modalities))
    doubtful = {case: suspicions for case in found if (suspicions := _surely_exchanged(found[case]))}
    if doubtful:
        cases = {case: cases[case] for case in cases if case not in doubtful}
        if why := _too_little(cases, modalities):
            return SequenceFit(None, why, doubtful)
        found, familiar_up_to = _held_out(cases, len(modalities))
    thresholds = _thresholds(list(found.values()), len(modalities))
    model = replace(_fit(cases.values(), len(modalities)), **thresholds, familiar_up_to=familiar_up_to)
    return SequenceFit(model, "", doubtful)


def _held_out(cases: Cases, modalities: int) -> tuple[dict[str, Found], float]:
    """What models that have not seen a case say of its files, and how strange the strangest file is to them."""
    unseen = [file for held_out in _folds(cases) for file in _unseen(cases, held_out, modalities)]
    found: dict[str, dict[int, Array]] = {}
    for file in unseen:
        found.setdefault(file.case, {})[file.channel] = file.log_probabilities
    return dict(found), max(file.strangeness for file in unseen)


def _surely_exchanged(found: Found) -> list[Suspicion]:
    probability = {pair: float(expit(exchange_odds(found, *pair))) for pair in combinations(sorted(found), 2)}
    sure = [pair for pair in probability if probability[pair] >= EXCHANGED_IN_TRAINING]
    return sorted(Suspicion(*names, probability[pair]) for pair in sure for names in (pair, pair[::-1]))


def _too_little(cases: Cases, modalities: Sequence[str]) -> str:
    if len(modalities) < 2:
        return f"There is {modalities[0]} alone: no other sequence that its file could be."
    counts = [sum(channel in of_case for of_case in cases.values()) for channel in range(len(modalities))]
    few = [f"{name} in {count}" for name, count in zip(modalities, counts, strict=True) if count < LEAST_CASES]
    expected = f"To tell the sequences apart takes each in at least {LEAST_CASES} training cases"
    return f"{expected}, there is {', '.join(few)}." if few else ""


def _folds(cases: Cases) -> list[set[str]]:
    """Deal the cases out, so that each fold has its share of every sequence."""
    from sklearn.model_selection import StratifiedGroupKFold  # noqa: PLC0415, for a quick start of the commands

    files = [(case, channel) for case in sorted(cases) for channel in cases[case]]
    owners, channels = (np.array(column) for column in zip(*files, strict=True))
    splits = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0).split(files, channels, owners)
    return [set(owners[held_out].tolist()) for _, held_out in splits]


def _unseen(cases: Cases, held_out: set[str], modalities: int) -> list[Unseen]:
    """What a model of the other cases says of the files of those that are held out."""
    model = _fit([cases[case] for case in cases if case not in held_out], modalities)
    return [
        Unseen(case, channel, model.log_probabilities(features), model.strangeness(features))
        for case in sorted(held_out)
        for channel, features in cases[case].items()
    ]


def _fit(cases: Iterable[Features], modalities: int) -> SequenceModel:
    """Fit the multinomial model, each sequence with the same weight; its thresholds are to be found."""
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415, for a quick start of the commands

    files = [(channel, features) for of_case in cases for channel, features in of_case.items()]
    channels, features = (np.array(column) for column in zip(*files, strict=True))
    assert set(channels) == set(range(modalities)), "a fold lacks a sequence"
    mean, deviation = features.mean(0), np.maximum(features.std(0), LEAST_DEVIATION)
    standard = np.clip((features - mean) / deviation, -CLIP, CLIP)
    fitted = LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=2000).fit(standard, channels)
    weights, bias = fitted.coef_, fitted.intercept_
    if modalities == 2:  # of which scikit-learn gives the log-odds
        weights, bias = np.vstack([-weights, weights]) / 2, np.append(-bias, bias) / 2
    none = np.zeros((modalities, modalities))
    assert weights.shape == (modalities, NUM_FEATURES)
    return SequenceModel(mean, deviation, weights, bias, none, none, familiar_up_to=0.0)


def _thresholds(found: Sequence[Found], modalities: int) -> dict[str, Array]:
    """Thresholds (M, M) by the field of the model that they are for."""
    level = FALSE_ALARMS / 2 / (modalities * (modalities - 1))
    other_above, exchanged_above = np.zeros((2, modalities, modalities))
    for channel, other in permutations(range(modalities), 2):
        odds = [of_case[channel][other] - of_case[channel][channel] for of_case in found if channel in of_case]
        other_above[channel, other] = _rarely_exceeded(odds, level)
    for pair in combinations(range(modalities), 2):
        odds = [exchange_odds(of_case, *pair) for of_case in found if of_case.keys() >= set(pair)]
        enough = len(odds) >= LEAST_CASES
        threshold = _rarely_exceeded(odds, 2 * level) if enough else other_above[pair] + other_above[pair[::-1]]
        exchanged_above[pair] = exchanged_above[pair[::-1]] = threshold
    return {"exchanged_above": exchanged_above, "other_above": other_above}


def _rarely_exceeded(odds: Sequence[float], level: float) -> float:
    """Log-odds that an untouched case exceeds with a probability of at most ``level``.

    No training case does, the next case of a normal distribution does not (its prediction bound), and what is said is
    probable in itself.
    """
    count = len(odds)
    reach = stats.t.ppf(1 - level, count - 1) * np.sqrt(1 + 1 / count)
    return float(max(logit(LEAST_PROBABILITY), np.max(odds), np.mean(odds) + reach * np.std(odds, ddof=1)))
