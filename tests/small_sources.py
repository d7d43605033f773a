"""Small generated copies of the public layouts: names, folders, label values and types as in the originals."""

import json

import numpy as np
import SimpleITK as sitk

SHAPE = (8, 8, 8)
SUFFIXES_BEFORE_2023 = ("_flair", "_t1", "_t1ce", "_t2", "_seg")
SUFFIXES_SINCE_2023 = ("-t2f", "-t1n", "-t1c", "-t2w", "-seg")


def write_layout(folder, layout, cases=3):
    """Write labelled cases as `layout` has them, every label value in each; returns the folder to convert."""
    year, _, challenge = layout.removeprefix("brats").partition("-")
    if layout.startswith("brats") and challenge:
        return write_brats_since_2023(folder, year, challenge.upper(), cases)
    return {
        "brats2018": write_brats_by_grade,
        "brats2019": write_brats_by_grade,
        "brats2020": write_brats2020,
        "brats2021": write_flat_brats,
        "fets2022": write_flat_brats,
        "msd-task01": write_msd,
        "wmh": write_wmh,
        "nnunet": write_nnunet,
        "pattern": write_pattern,
    }[layout](folder, layout, cases)


def write_brats_by_grade(folder, layout, cases):
    year = layout.removeprefix("brats")
    root = folder / f"MICCAI_BraTS_{year}_Data_Training"
    prefix = {"2018": "Brats18", "2019": "BraTS19"}[year]
    for number in range(cases):
        case = f"{prefix}_2013_{number}_1" if number % 2 else f"{prefix}_TCIA01_{131 + number}_1"
        write_brats_case(root / ("HGG", "LGG")[number % 2] / case, SUFFIXES_BEFORE_2023, (1, 2, 4), ".nii.gz")
    (root / "survival_data.csv").write_text("BraTS18ID,Age,Survival\n")
    return root


def write_brats2020(folder, _, cases):
    """The third case is the one whose labels the archive gives another name."""
    root = folder / "MICCAI_BraTS2020_TrainingData"
    for number in range(353, 353 + cases):
        case = root / f"BraTS20_Training_{number}"
        write_brats_case(case, SUFFIXES_BEFORE_2023, (1, 2, 4), ".nii")
        if number == 355:
            (case / f"{case.name}_seg.nii").rename(case / "W39_1998.09.19_Segm.nii")
    (root / "name_mapping.csv").write_text("Grade,BraTS_2019_subject_ID,BraTS_2020_subject_ID\n")
    return root


def write_flat_brats(folder, layout, cases):
    prefix, root = {
        "brats2021": ("BraTS2021", "BraTS2021_Training_Data"),
        "fets2022": ("FeTS2022", "MICCAI_FeTS2022_TrainingData"),
    }[layout]
    names = [f"{prefix}_{number:05d}" for number in range(cases)]
    for name in names:
        write_brats_case(folder / root / name, SUFFIXES_BEFORE_2023, (1, 2, 4), ".nii.gz")
    if prefix == "FeTS2022":
        rows = [f"{number % 2 + 1},{name}" for number, name in enumerate(names)]
        (folder / root / "partitioning_1.csv").write_text("\n".join(["Partition_ID,Subject_ID", *rows, ""]))
    return folder / root


def write_brats_since_2023(folder, year, challenge, cases):
    """The first two cases are scans of one patient."""
    root = folder / f"ASNR-MICCAI-BraTS{year}-{challenge}-Challenge-TrainingData"
    first, values = (0, (1, 2, 3)) if year == "2023" else (100, (1, 2, 3, 4))
    for number in range(cases):
        case = f"BraTS-{challenge}-{number // 2:05d}-{first + number % 2:03d}"
        write_brats_case(root / case, SUFFIXES_SINCE_2023, values, ".nii.gz")
    return root


def write_brats_case(folder, suffixes, values, ending):
    *images, label = suffixes
    for number, suffix in enumerate(images):
        write_image(folder / f"{folder.name}{suffix}{ending}", image(folder.name, number))
    write_image(folder / f"{folder.name}{label}{ending}", labels(values))


def write_msd(folder, _, cases):
    root = folder / "Task01_BrainTumour"
    names = [f"BRATS_{number:03d}.nii.gz" for number in range(1, cases + 1)]
    for name in names:
        stacked = np.stack([image(name, number) for number in range(4)])
        write_image(root / "imagesTr" / name, stacked.astype(np.float32))
        write_image(root / "labelsTr" / name, labels((1, 2, 3)))
        (root / "imagesTr" / f"._{name}").write_bytes(b"\0")  # the archive was packed on a Mac
    described = {
        "name": "BRATS",
        "tensorImageSize": "4D",
        "modality": {"0": "FLAIR", "1": "T1w", "2": "t1gd", "3": "T2w"},
        "labels": {"0": "background", "1": "edema", "2": "non-enhancing tumor", "3": "enhancing tumour"},
        "numTraining": cases,
        "numTest": 0,
        "training": [{"image": f"./imagesTr/{name}", "label": f"./labelsTr/{name}"} for name in names],
        "test": [],
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def write_wmh(folder, _, cases):
    """The first archive; the later one has its sites below training/ and test/."""
    for number in range(cases):
        site, first = (("Utrecht", 0), ("Singapore", 50), ("GE3T", 100))[number % 3]
        write_wmh_case(folder / "WMH" / site / str(first + number // 3))
    return folder / "WMH"


def write_wmh_case(folder):
    for place in ("orig", "pre"):
        for number, modality in enumerate(("FLAIR", "T1")):
            write_image(folder / place / f"{modality}.nii.gz", image(place, number), spacing=(1.0, 1.0, 3.0))
    write_image(folder / "orig" / "3DT1.nii.gz", image("3DT1", 0))
    write_image(folder / "wmh.nii.gz", labels((1, 2)), spacing=(1.0, 1.0, 3.0))


def write_nnunet(folder, _, cases):
    """Every second case lacks its second channel."""
    root = folder / "Dataset042_Lesions"
    for number in range(cases):
        for channel in (0,) if number % 2 else (0, 1):
            write_image(root / "imagesTr" / f"case_{number:02d}_{channel:04d}.nii.gz", image(str(number), channel))
        write_image(root / "labelsTr" / f"case_{number:02d}.nii.gz", labels((1, 2)))
    described = {
        "channel_names": {"0": "FLAIR", "1": "T1"},
        "labels": {"background": 0, "lesion": 1, "ignore": 2},
        "numTraining": cases,
        "file_ending": ".nii.gz",
    }
    (root / "dataset.json").write_text(json.dumps(described))
    return root


def write_pattern(folder, _, cases):
    """{case}/{case}_{modality}.nii.gz, flair and t1ce; labels {case}/{case}_seg.nii.gz of 0, 1, 2."""
    for number in range(cases):
        case = folder / "cohort" / f"patient_{number:02d}"
        for channel, modality in enumerate(("flair", "t1ce")):
            write_image(case / f"{case.name}_{modality}.nii.gz", image(case.name, channel))
        write_image(case / f"{case.name}_seg.nii.gz", labels((1, 2)))
    return folder / "cohort"


def image(case, number):
    """Zero outside, positive inside, another one for each case and number; (8, 8, 8) int16."""
    array = np.zeros(SHAPE, np.int16)
    rng = np.random.default_rng([number, *case.encode()])
    array[1:-1, 1:-1, 1:-1] = rng.integers(100, 1000, size=(6, 6, 6))
    return array


def labels(values):
    """A slab of each value; (8, 8, 8) uint8."""
    array = np.zeros(SHAPE, np.uint8)
    for place, value in enumerate(values, start=2):
        array[place, 2:6, 2:6] = value
    return array


def write_image(file, array, spacing=(1.0, 1.0, 1.0)):
    """Write an array; four axes make a 4D file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    written = sitk.GetImageFromArray(array, isVector=False)
    written.SetSpacing([*spacing, 1.0][: array.ndim])
    sitk.WriteImage(written, str(file), useCompression=True)
