"""Are files that were mixed up found? ``python -m benchmarks.mixups -i FOLDER``.

FOLDER is a raw dataset of nnU-Net's, whose training cases are learnt from and whose test cases are tried; or it holds
CASE/NAME.nii.gz, with ``--names``, and its cases are dealt out into five folds by chance: each of ``--folds`` is tried
with a model of all others, or with ``--on OTHER``, cases of the same form, one model of all is. Tried are the cases
as they are, every pair of files exchanged, and every file replaced by a copy of another.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import combinations, permutations
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from nnunetv2_missmod.calibration.sequence_features import image_features
from nnunetv2_missmod.calibration.sequence_fitting import fit_sequences
from nnunetv2_missmod.calibration.sequence_model import Features, SequenceModel
from nnunetv2_missmod.calibration.suspicions import words_of, words_of_unfamiliar

Cases = dict[str, Features]
Counts = dict[str, list[int]]  # what was tried -> cases, those told right, those with any warning
FOLDS = 5


def main() -> None:
    """Print a table as Markdown, and what is said of untouched cases."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-i", type=Path, required=True, help="folder of the cases")
    parser.add_argument("--names", nargs="+", help="of the files, without their ending, unless it is a raw dataset")
    parser.add_argument("--folds", nargs="+", type=int, default=list(range(FOLDS)))
    parser.add_argument("--on", type=Path, help="try these cases instead, their files named by --on_names")
    parser.add_argument("--on_names", nargs="+", help="as --names, in the same order")
    arguments = parser.parse_args()
    counts: Counts = defaultdict(lambda: [0, 0, 0])
    names = arguments.names or modalities_of(arguments.i)
    for training, test in splits(arguments, names):
        model, why, doubtful = fit_sequences(training, names)
        for case, suspicions in doubtful.items():
            print(f"{case}, of the training cases: {words_of(suspicions, names)}")
        if model is None:
            raise ValueError(why)
        for case, features in test.items():
            try_case(model, case, features, names, counts)
    print("| tried | cases | told right | any warning |\n|---|---|---|---|")
    for tried, row in counts.items():
        print(f"| {tried} | {' | '.join(map(str, row))} |")


def splits(arguments: argparse.Namespace, names: list[str]) -> Iterator[tuple[Cases, Cases]]:
    """Give training and test cases, fold by fold."""
    if not arguments.names:
        yield raw_cases(arguments.i / "imagesTr"), raw_cases(arguments.i / "imagesTs")
        return
    cases = named_cases(arguments.i, names)
    if arguments.on:
        yield cases, named_cases(arguments.on, arguments.on_names)
        return
    order = np.random.default_rng(0).permutation(sorted(cases)).tolist()
    for fold in arguments.folds:
        test = set(order[fold::FOLDS])
        yield {c: cases[c] for c in cases if c not in test}, {c: cases[c] for c in cases if c in test}


def try_case(model: SequenceModel, case: str, features: Features, names: list[str], counts: Counts) -> None:
    """Try a case as it is and with its files mixed up, and count what is said."""

    def count_one(tried: str, files: Features, right: set[tuple[int, int]]) -> None:
        said = model.suspicions_of(files)
        is_right = {(suspicion.channel, suspicion.looks_like) for suspicion in said} == right
        counts[tried] = [count + more for count, more in zip(counts[tried], (1, is_right, bool(said)), strict=True)]
        if said and not right:
            print(f"{case}: {words_of(said, names)}")

    if unfamiliar := model.unfamiliar(features):
        print(f"{case}: {words_of_unfamiliar(unfamiliar, names)}")
    count_one("untouched", features, set())
    for one, other in combinations(features, 2):
        exchanged = {**features, one: features[other], other: features[one]}
        count_one(f"{names[one]} and {names[other]} exchanged", exchanged, {(one, other), (other, one)})
    for one, other in permutations(features, 2):
        count_one(f"{names[other]} as {names[one]}", {**features, one: features[other]}, {(one, other)})


def modalities_of(folder: Path) -> list[str]:
    """Give the channels' names of a raw dataset."""
    return list(json.loads((folder / "dataset.json").read_text())["channel_names"].values())


def raw_cases(folder: Path) -> Cases:
    """Measure the cases of imagesTr or imagesTs."""
    return measured(folder.glob("*_[0-9]*.nii.gz"), lambda file: (file.name[:-12], int(file.name[-11:-7])))


def named_cases(folder: Path, names: list[str]) -> Cases:
    """Measure the cases CASE/NAME.nii.gz."""
    files = (file for file in folder.glob("*/*.nii.gz") if file.name[:-7] in names)
    return measured(files, lambda file: (file.parent.name, names.index(file.name[:-7])))


def measured(files: Iterable[Path], placed: Callable[[Path], tuple[str, int]]) -> Cases:
    """Measure files, each in its case and channel."""
    cases: dict[str, dict[int, np.ndarray]] = defaultdict(dict)
    for file in sorted(files):
        case, channel = placed(file)
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(file), sitk.sitkFloat32))
        if (features := image_features(image)) is not None:
            cases[case][channel] = features
    return dict(cases)


if __name__ == "__main__":
    main()
