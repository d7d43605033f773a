"""Do the methods help on real images? Leave-one-out on gliomas: ``python -m benchmarks.glioma -i FOLDER``.

FOLDER holds the six cases of BraTS 2015 that come with DeepMedic (https://github.com/deepmedic/deepmedic, examples:
FLAIR and T1c, already z-scored, with brain masks), as CASE/{flair,t1ce,seg,brainmask}.nii.gz. They are resampled to
2 mm and masked, then treated as a user's: ``missmod convert``, nnU-Net's planning, training on five cases, and
``missmod evaluate`` on the sixth, with both modalities, FLAIR alone and T1c alone.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import SimpleITK as sitk

from benchmarks.comparison import METHODS, Bench, add_flags, bench_of
from benchmarks.comparison_tables import report
from nnunetv2_missmod.host.doors import find_command

DATASET = "Dataset502_Glioma"
SPACING = 2.0  # mm


def main() -> None:
    """Train and score what is not there yet; print the tables as Markdown and write OUT/means.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, "benchmark_glioma")
    parser.add_argument("-i", type=Path, required=True, help="folder of the cases")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bench = bench_of(arguments, DATASET)
    cases = prepare(bench, arguments.i)
    folds = [str(fold) for fold in range(len(cases))]
    names = arguments.only or list(METHODS)
    for name in names:
        for fold in range(len(cases)):
            bench.train(name, METHODS[name], arguments.seed, fold)
        bench.evaluate(name, METHODS[name], arguments.seed, ["-f", *folds])
    report({name: {arguments.seed: bench.scores(name, arguments.seed)} for name in names}, bench.out)


def prepare(bench: Bench, source: Path) -> list[str]:
    """Resample, convert, plan and preprocess the cases and split them, unless that is done; give their names."""
    cases = sorted(folder.name for folder in source.iterdir() if folder.is_dir())
    raw = bench.out / "nnUNet_raw"
    if not (raw / DATASET).exists():
        small = bench.out / "2mm"
        for case in cases:
            write_small(source / case, small, case)
        raw.mkdir(parents=True, exist_ok=True)
        pattern = ["--pattern", "{case}/{case}_{modality}.nii.gz", "--label_pattern", "{case}/{case}_seg.nii.gz"]
        regions = ["whole tumor=1,2,3,4", "tumor core=1,3,4", "enhancing tumor=4"]
        command = [find_command("missmod"), "convert", str(small), "-d", "502", "--name", "Glioma", "--layout"]
        command += ["pattern", *pattern, "--modalities", "FLAIR=flair", "T1c=t1ce", "--labels", *regions]
        bench.run(command)
    bench.preprocess()
    splits = [{"train": [c for c in cases if c != case], "val": [case]} for case in cases]
    (bench.preprocessed / "splits_final.json").write_text(json.dumps(splits))
    return cases


def write_small(folder: Path, out: Path, case: str) -> None:
    """Resample one case, zero outside the brain (in the files air is a negative constant)."""
    (out / case).mkdir(parents=True, exist_ok=True)
    mask = resampled(sitk.ReadImage(str(folder / "brainmask.nii.gz")), sitk.sitkNearestNeighbor) > 0
    for name, interpolator in (
        ("flair", sitk.sitkLinear),
        ("t1ce", sitk.sitkLinear),
        ("seg", sitk.sitkNearestNeighbor),
    ):
        image = resampled(sitk.ReadImage(str(folder / f"{name}.nii.gz"), sitk.sitkFloat32), interpolator)
        sitk.WriteImage(sitk.Mask(image, mask), str(out / case / f"{case}_{name}.nii.gz"), useCompression=True)


def resampled(image: sitk.Image, interpolator: int) -> sitk.Image:
    """Resample to isotropic voxels."""
    factors = [SPACING / spacing for spacing in image.GetSpacing()]
    size = [round(axis / factor) for axis, factor in zip(image.GetSize(), factors, strict=True)]
    spacing = [SPACING] * 3
    return sitk.Resample(image, size, sitk.Transform(), interpolator, image.GetOrigin(), spacing, image.GetDirection())


if __name__ == "__main__":
    main()
