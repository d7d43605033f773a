"""Makes the model of the phantom that comes with the package, for `missmod demo --quick`.

    python -m benchmarks.embedded_model

It trains ModalityDropoutTrainer on the demo's cohort with ``plans/embedded.json``, and keeps of the model what
prediction reads, its weights in half precision.
"""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from nnunetv2_missmod.cli.demo_job import CONFIGURATION, EMBEDDED, EMBEDDED_TRAINER, Job
from nnunetv2_missmod.host.checkpoint import CHECKPOINTS, load_data

KEPT = ("trainer_name", "inference_allowed_mirroring_axes")


def main() -> None:
    """Train the model, and put it into the package."""
    with TemporaryDirectory() as folder:
        job = Job(Path(folder).resolve() / "job", "cpu", "embedded")
        job.prepare_data()
        job.train(EMBEDDED_TRAINER)
        keep(job.model_folder(EMBEDDED_TRAINER), EMBEDDED)
        job.evaluate(EMBEDDED_TRAINER)
        job.report(EMBEDDED_TRAINER)


def keep(model: Path, into: Path) -> None:
    """Copy of a model what prediction reads, in as few bytes as that takes."""
    plans = json.loads((model / "plans.json").read_text())
    plans["configurations"] = {CONFIGURATION: plans["configurations"][CONFIGURATION]}
    (into / "fold_0").mkdir(parents=True, exist_ok=True)
    (into / "plans.json").write_text(json.dumps(plans, indent=4) + "\n")
    (into / "dataset.json").write_text((model / "dataset.json").read_text())
    checkpoint = load_data(model / "fold_0" / CHECKPOINTS[0])
    halves: dict[int, torch.Tensor] = {}  # several names stand for one weight: nnU-Net's decoder holds the encoder too
    weights = {name: halves.setdefault(w.data_ptr(), w.half()) for name, w in checkpoint["network_weights"].items()}
    kept = {name: checkpoint[name] for name in KEPT}
    torch.save({**kept, "network_weights": weights}, into / "fold_0" / CHECKPOINTS[0])


if __name__ == "__main__":
    main()
