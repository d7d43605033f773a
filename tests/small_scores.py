"""A provenance of two modalities and two regions."""

from dataclasses import replace

from nnunetv2_missmod.evaluation.scores import Provenance

SUBSETS = {"FLAIR": ["FLAIR"], "T1c": ["T1c"], "FLAIR+T1c": ["FLAIR", "T1c"]}
REGIONS = {"whole": [1, 2, 3], "enhancing": [3]}


def provenance(**changes):
    given = Provenance(
        model="DCSegTrainer__nnUNetPlans__3d_fullres",
        dataset="Dataset137_BraTS2021",
        trainer="DCSegTrainer",
        plans="nnUNetPlans",
        configuration="3d_fullres",
        folds=[0, "all"],
        checkpoint="checkpoint_final.pth",
        weights=["0" * 64, "1" * 64],
        modalities=["FLAIR", "T1c"],
        subsets=SUBSETS,
        sampled=False,
        regions=list(REGIONS),
        region_labels=REGIONS,
        empty_policy="nnunet",
        nsd_tolerance_mm=1.0,
        min_voxels={},
        images="/data/imagesTs",
        labels="/data/labelsTs",
        predictions="predictions",
        file_ending=".nii.gz",
        versions={"nnunetv2": "2.8.0"},
    )
    return replace(given, **changes)
