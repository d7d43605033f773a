"""``nnUNetv2_train`` for a comparison: seeded, as many epochs for stock nnU-Net, no final validation, no curves.

``python -m benchmarks.seeded_training --seed 0 --epochs 5 501 2d 0 -tr DCSegTrainer ...``: what is not named below goes
to nnU-Net. Its own trainer cannot be told from a plan how long to train; ours are. Scoring is left to
``missmod evaluate``.
"""

from __future__ import annotations

import argparse
import functools
import sys
from typing import Any

import torch
from nnunetv2.run.run_training import run_training_entry
from nnunetv2.training.logging.nnunet_logger import MetaLogger
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer


def main() -> None:
    """Seed, change what is asked for, and train."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--epochs", type=int, required=True, help="of nnUNetTrainer")
    parser.add_argument("--iterations", type=int, default=250, help="of an epoch of nnUNetTrainer")
    parser.add_argument("--val_iterations", type=int, default=50, help="of its validation")
    parser.add_argument("--threads", type=int, help="of PyTorch; nnU-Net takes a thread per core on a CPU")
    arguments, for_nnunet = parser.parse_known_args()
    torch.manual_seed(arguments.seed)
    train_stock_for(arguments.epochs, arguments.iterations, arguments.val_iterations)
    nnUNetTrainer.perform_actual_validation = lambda self, save_probabilities=False: None
    MetaLogger.plot_progress_png = lambda self, output_folder: None  # a second of each short epoch
    if arguments.threads:
        keep_threads(arguments.threads)
    sys.argv[1:] = for_nnunet
    run_training_entry()


def train_stock_for(epochs: int, iterations: int, val_iterations: int) -> None:
    """Set how long nnUNetTrainer trains; trainers built on it set their own afterwards."""
    original = nnUNetTrainer.__init__

    @functools.wraps(original)  # nnU-Net reads the signature
    def init(self: nnUNetTrainer, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.num_epochs = epochs
        self.num_iterations_per_epoch, self.num_val_iterations_per_epoch = iterations, val_iterations

    nnUNetTrainer.__init__ = init


def keep_threads(threads: int) -> None:
    """Set the number of PyTorch's threads, for trainings side by side, whatever nnU-Net asks for later."""
    torch.set_num_threads(threads)
    torch.set_num_threads = lambda nthreads: None


if __name__ == "__main__":
    main()
