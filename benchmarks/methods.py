"""Do the methods help? Every trainer on one hard phantom cohort: ``python -m benchmarks.methods``.

The same cases, plan, number of updates and seeds for all; a pretraining's updates, half as many, come on top unless the
row says that they are counted (those of M3AE's ablations are). Scored are
test cases from every subset of their modalities, by ``missmod evaluate``. What is finished is kept: a run that was
ended goes on with the same command, and more seeds or trainers can be added later, also by several commands side by
side, each with rows (``--only``) or seeds of its own.
"""

from __future__ import annotations

import argparse

from benchmarks.comparison import METHODS, Bench, Run, Settings, add_flags, bench_of
from benchmarks.comparison_tables import report, table_of_ablations
from nnunetv2_missmod.datasets.phantom.cohort import write_phantom_dataset

DATASET = "Dataset501_Phantom"
WHOLE_CCSD = "CCSD, Adam, tau^2"  # what its ablations leave a part out of
WHOLE_OF = {"CCSDTrainer": WHOLE_CCSD, "M3AETrainer": "M3AE, pretraining counted"}


def of_both(substitute: str) -> Settings:
    """Settings of both stages of M3AE."""
    return {name: {"substitute": substitute} for name in ("M3AEPretrainTrainer", "M3AETrainer")}


def of_ccsd(**settings: float | str) -> Run:
    """CCSD as in the row of its whole, but for some settings."""
    whole = METHODS[WHOLE_CCSD]
    return whole._replace(settings={"CCSDTrainer": {**whole.settings["CCSDTrainer"], **settings}})


def of_paper(substitute: str = "zero_input", **settings: float | str) -> Run:
    """CCSD with Adam and the paper's weights, but for some settings."""
    return METHODS["CCSD, Adam"]._replace(settings={"CCSDTrainer": settings}, network={"substitute": substitute})


ABLATIONS = {
    "DC-Seg without L_ana": Run("DCSegTrainer", {"DCSegTrainer": {"anatomy_weight": 0.0}}),
    "DC-Seg without L_mod": Run("DCSegTrainer", {"DCSegTrainer": {"modality_weight": 0.0}}),
    "DC-Seg without L_ana and L_mod": Run(
        "DCSegTrainer", {"DCSegTrainer": {"anatomy_weight": 0.0, "modality_weight": 0.0}}
    ),
    "DC-Seg without L_rec": Run("DCSegTrainer", {"DCSegTrainer": {"reconstruction_weight": 0.0}}),
    "DC-Seg without L_reg": Run("DCSegTrainer", {"DCSegTrainer": {"separate_weight": 0.0}}),
    "CCSD without HMSD": of_ccsd(hmsd_weight=0.0),
    "CCSD without DMCD": of_ccsd(dmcd_weight=0.0),
    "CCSD, shared features distilled": of_ccsd(dmcd_features="shared"),
    "CCSD, specific features distilled": of_ccsd(dmcd_features="specific"),
    "CCSD, random path": of_ccsd(path_order="random"),
    "CCSD, least critical first": of_ccsd(path_order="min"),
    "MST-KDNet without MS-TKD": Run("MSTKDNetTrainer", {"MSTKDNetTrainer": {"evd_weight": 0.0, "mst_weight": 0.0}}),
    "MST-KDNet without GSME": Run(
        "MSTKDNetTrainer", {"MSTKDNetTrainer": {"gram_weight": 0.0, "adversarial_weight": 0.0}}
    ),
    "MST-KDNet without SLKD": Run("MSTKDNetTrainer", {"MSTKDNetTrainer": {"slkd_weight": 0.0}}),
    "M3AE without pretraining": Run("M3AETrainer", {"M3AETrainer": {"pretrained": False}}),
    "M3AE, modality dropout alone": Run(
        "M3AETrainer", {"M3AEPretrainTrainer": {"visible_fraction": 1.0}}, counted=True
    ),
    "M3AE, zero for x_sub": Run("M3AETrainer", of_both("zero"), counted=True),
    "M3AE, mean image for x_sub": Run("M3AETrainer", of_both("mean"), counted=True),
    "M3AE without self distillation": Run("M3AETrainer", {"M3AETrainer": {"consistency_weight": 0.0}}, counted=True),
    "U-HVED without KL": Run("UHVEDTrainer", {"UHVEDTrainer": {"kl_inter_weight": 0.0, "kl_prior_weight": 0.0}}),
    "U-HVED without L_rec": Run("UHVEDTrainer", {"UHVEDTrainer": {"reconstruction_weight": 0.0}}),
}

# What a paper leaves open, read in other ways. Training cases are complete here, so that a quarter of L_reg's sum over
# four modalities is its mean.
READINGS = {
    "DC-Seg, mean of L_reg": Run("DCSegTrainer", {"DCSegTrainer": {"separate_weight": 0.25}}),
    "DC-Seg, balanced pairs": Run("DCSegTrainer", {"DCSegTrainer": {"balanced_pairs": True}}),
    "CCSD, no DMCD": of_paper(dmcd_weight=0.0),
    "CCSD, no DMCD, tau 1": of_paper(dmcd_weight=0.0, hmsd_tau=1.0),
    "CCSD, no DMCD, tau 2": of_paper(dmcd_weight=0.0, hmsd_tau=2.0),
    "CCSD, DMCD at the decoder's input": of_paper(dmcd_over="decoder_input"),
    "CCSD, mean in Z, no DMCD": of_paper("mean_available", dmcd_weight=0.0),
    "CCSD, mean in Z, DMCD in each slot": of_paper("mean_available", dmcd_over="each_slot"),
}

# Steps that cost less: of what is drawn the expectation is the same.
CHEAPER = {
    "DC-Seg, one modality alone": Run("DCSegTrainer", {"DCSegTrainer": {"separate_modalities": 1}}),
    "RFNet, one modality alone": Run("RFNetTrainer", {"RFNetTrainer": {"separate_modalities": 1}}),
    "CCSD, Adam, two students": Run("CCSDTrainer", {"CCSDTrainer": {"max_students": 2}}, adam=2e-3),
}

# As much time as a costlier method takes, in place of as many updates.
LONGER = {"modality dropout, Adam, three times the updates": METHODS["modality dropout, Adam"]._replace(times=3)}

# M3AE's pretraining on top of all updates with labels, but for a part of it.
PRETRAININGS = {
    "M3AE, no blocks hidden, on top": Run("M3AETrainer", {"M3AEPretrainTrainer": {"visible_fraction": 1.0}}),
    "M3AE, zero for x_sub, on top": Run("M3AETrainer", of_both("zero")),
}

# Why a method stays below modality dropout: without all that its teacher teaches, and with twice the rate.
QUESTIONED = {
    "MST-KDNet, labels alone": Run(
        "MSTKDNetTrainer",
        {"MSTKDNetTrainer": {f"{term}_weight": 0.0 for term in ("evd", "mst", "mse", "slkd", "gram", "adversarial")}},
    ),
    "MST-KDNet, 2e-3": Run("MSTKDNetTrainer", {"MSTKDNetTrainer": {"initial_lr": 2e-3}}),
}

# A model for one subset has no row of its own in a mean over all of them: by --only, and for the table of subsets.
DEDICATED = {
    "ACN, T1c": Run("ACNTrainer", {"ACNTrainer": {"subset": "T1c"}}),
    "ACN, FLAIR": Run("ACNTrainer", {"ACNTrainer": {"subset": "FLAIR"}}),
    "SMU-Net, T1c": Run("SMUNetTrainer", {"SMUNetTrainer": {"subset": "T1c"}}),
    "SMU-Net, FLAIR": Run("SMUNetTrainer", {"SMUNetTrainer": {"subset": "FLAIR"}}),
}

ROWS = METHODS | ABLATIONS | READINGS | CHEAPER | LONGER | PRETRAININGS | QUESTIONED | DEDICATED  # what --only may name

WHOLES = {name: WHOLE_OF.get(run.trainer) or name.split(" without")[0].split(",")[0] for name, run in ABLATIONS.items()}


def main() -> None:
    """Train and score what is not there yet; print the tables as Markdown and write OUT/means.csv."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_flags(parser, "benchmark_methods")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--training", type=int, default=40)
    parser.add_argument("--test", type=int, default=20)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--ablations", action="store_true", help="the papers' ablations as well")
    arguments = parser.parse_args()
    runs = METHODS | (ABLATIONS if arguments.ablations else {})
    bench = bench_of(arguments, DATASET)
    prepare(bench, arguments.training, arguments.test, arguments.size)
    names = arguments.only or list(runs)
    for done, seed in enumerate(arguments.seeds, 1):  # seed by seed: an early end leaves a table of fewer seeds
        for name in names:
            run = ROWS[name]
            bench.train(name, run, seed)
            bench.evaluate(name, run, seed, test_cases(bench))
        scored = arguments.seeds[:done]
        means = report({name: {seed: bench.scores(name, seed) for seed in scored} for name in names}, bench.out)
        if arguments.ablations:
            print(f"\n{table_of_ablations(means, WHOLES)}", flush=True)


def prepare(bench: Bench, training: int, test: int, size: int) -> None:
    """Write, plan and preprocess the cohort, unless that is done."""
    raw = bench.out / "nnUNet_raw"
    if not raw.exists():
        write_phantom_dataset(raw, num_training=training, num_test=test, shape=(size, size, size), hard=True)
    bench.preprocess()


def test_cases(bench: Bench) -> list[str]:
    """Flags of `missmod evaluate` for the test cases."""
    cases = bench.out / "nnUNet_raw" / DATASET
    return ["-i", str(cases / "imagesTs"), "-gt", str(cases / "labelsTs"), "-f", "0"]


if __name__ == "__main__":
    main()
