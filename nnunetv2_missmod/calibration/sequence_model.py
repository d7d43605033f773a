"""Is each file the sequence that its name says? A multinomial model of what one image shows, asked about a case."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import partial
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_softmax

from nnunetv2_missmod.calibration.sequence_features import NUM_FEATURES, VERSION, image_features
from nnunetv2_missmod.calibration.suspicions import Suspicion
from nnunetv2_missmod.files.entries import TABLE, Kind, Place, is_finite, is_list

FARTHEST = 10.0  # deviations that a feature counts when a file is compared with the training cases' files
CLIP = 3.0  # deviations from the training cases' mean beyond which a feature says no more
LIKELY = 0.5  # what a file alone is said to look like is likelier than all else together
LEAST_DEVIATION = 1e-6  # of a feature
LARGEST = 1e6  # number of a model
MEND = "Calibrate again."

Array = NDArray[np.float64]
Features = Mapping[int, Array]  # of a case: (NUM_FEATURES,) of each channel that it has


@dataclass(frozen=True, eq=False)
class SequenceModel:
    """A multinomial logistic model of M sequences, and how sure it must be before it speaks."""

    mean: Array  # (NUM_FEATURES,) over the training images
    deviation: Array  # (NUM_FEATURES,), positive
    weights: Array  # (M, NUM_FEATURES)
    bias: Array  # (M,)
    exchanged_above: Array  # (M, M): log-odds above which two files are said to be exchanged; symmetric
    other_above: Array  # (M, M): log-odds above which the file for one channel is said to look like another
    familiar_up_to: float  # mean square deviation beyond which a file is unlike all training files, and not judged

    def suspicions_of(self, features: Features) -> list[Suspicion]:
        """Ask whether the files of a case are what their names say.

        Args:
            features: of ``case_features``.

        Returns:
            What is suspected, in the order of the channels; empty if nothing is, or nothing surely enough.
        """
        found = {
            channel: self.log_probabilities(values)
            for channel, values in features.items()
            if self.strangeness(values) <= self.familiar_up_to
        }
        exchanged = self._exchanged(found)
        others = [self._other(channel, found[channel]) for channel in found if channel not in exchanged]
        return sorted([*exchanged.values(), *(suspicion for suspicion in others if suspicion)])

    def unfamiliar(self, features: Features) -> list[int]:
        """Give the channels of which nothing is said, as no training file looks like theirs: another scanner, say."""
        return sorted(channel for channel in features if self.strangeness(features[channel]) > self.familiar_up_to)

    def strangeness(self, features: Array) -> float:
        """Mean square, in deviations, of how far (NUM_FEATURES,) are from the training files' mean."""
        far = np.clip((features - self.mean) / self.deviation, -FARTHEST, FARTHEST)
        return float((far**2).mean())

    def log_probabilities(self, features: Array) -> Array:
        """Log-probability (M,) of each sequence, all of them as frequent, given (NUM_FEATURES,) of an image."""
        standard = np.clip((features - self.mean) / self.deviation, -CLIP, CLIP)
        result: Array = log_softmax(self.weights @ standard + self.bias)
        return result

    def _exchanged(self, found: Mapping[int, Array]) -> dict[int, Suspicion]:
        """Suspicion of each channel of the pairs that are exchanged, no channel in two pairs, the surest first."""
        odds = {pair: exchange_odds(found, *pair) for pair in combinations(sorted(found), 2)}
        sure = [pair for pair in odds if odds[pair] > self.exchanged_above[pair] and self._would_fit(found, *pair)]
        exchanged: dict[int, Suspicion] = {}
        for one, other in sorted(sure, key=odds.__getitem__, reverse=True):
            if not exchanged.keys() & {one, other}:
                probability = float(expit(odds[one, other]))
                exchanged[one] = Suspicion(one, other, probability)
                exchanged[other] = Suspicion(other, one, probability)
        return exchanged

    def _would_fit(self, found: Mapping[int, Array], one: int, other: int) -> bool:
        """Tell whether nothing would be said of two files alone if they bore each other's names."""
        return not (self._other(one, found[other]) or self._other(other, found[one]))

    def _other(self, channel: int, log_probabilities: Array) -> Suspicion | None:
        """The sequence that a file alone looks most like, if it is surely not the one of its name."""
        best = int(log_probabilities.argmax())
        sure = log_probabilities[best] - log_probabilities[channel] > self.other_above[channel, best]
        probability = float(np.exp(log_probabilities[best]))
        is_other = best != channel and sure and probability > LIKELY
        return Suspicion(channel, best, probability) if is_other else None

    def to_json(self) -> dict[str, Any]:
        """Give the model as lists of numbers, which ``from_json`` takes."""
        return {"features": VERSION, **{name: np.asarray(values).tolist() for name, values in asdict(self).items()}}

    @classmethod
    def from_json(cls, content: Any, modalities: int, file: str = "calibration.json") -> SequenceModel:
        """Take what ``to_json`` gave.

        Args:
            content: of the file, or of its part.
            modalities: M.
            file: where it is from, for messages.

        Raises:
            ValueError: an entry is missing or is not what it must be.
        """
        place = Place(file, "of the sequences", MEND)
        place.check("the model", content, TABLE)
        place.check_all(content, _kinds(modalities))
        names = [field.name for field in fields(cls) if field.name != "familiar_up_to"]
        arrays = {name: np.array(content[name], np.float64) for name in names}
        return cls(**arrays, familiar_up_to=float(content["familiar_up_to"]))


def case_features(images: NDArray[np.floating], available: NDArray[np.bool_]) -> dict[int, Array]:
    """Measure the available channels of a case, but for those that show nothing.

    Args:
        images: (M, x, y, z) as they were read.
        available: (M,).

    Returns:
        (NUM_FEATURES,) by channel.
    """
    measured = {channel: image_features(images[channel]) for channel in np.flatnonzero(available).tolist()}
    return {channel: features for channel, features in measured.items() if features is not None}


def exchange_odds(found: Mapping[int, Array], one: int, other: int) -> float:
    """Log-odds that two files are each other's sequence against that both are their own.

    Args:
        found: log-probabilities (M,) by channel.
        one: channel.
        other: channel.
    """
    return float(found[one][other] - found[one][one] + found[other][one] - found[other][other])


def _kinds(modalities: int) -> dict[str, Kind]:
    return {
        "features": Kind(lambda value: value == VERSION and value is not True, f"{VERSION}, those of this version"),
        "mean": _numbers(NUM_FEATURES),
        "deviation": _numbers(NUM_FEATURES, LEAST_DEVIATION),
        "weights": _table(modalities, NUM_FEATURES),
        "bias": _numbers(modalities),
        "exchanged_above": _table(modalities, modalities),
        "other_above": _table(modalities, modalities),
        "familiar_up_to": Kind(lambda value: is_finite(value) and value >= 0, "a number of at least 0"),
    }


def _numbers(count: int, least: float = -LARGEST) -> Kind:
    fits = partial(is_list, fits=lambda value: is_finite(value) and least <= value <= LARGEST, lengths=(count,))
    return Kind(fits, f"{count} numbers from {least:g} to {LARGEST:g}")


def _table(rows: int, columns: int) -> Kind:
    row = _numbers(columns)
    return Kind(partial(is_list, fits=row.fits, lengths=(rows,)), f"{rows} lists of {row.words}")
