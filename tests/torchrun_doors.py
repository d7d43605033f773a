"""What torchrun starts in the test of two machines: train.py's training of every door, one after the other."""

import sys

import torch
from nnunetv2.training.logging.nnunet_logger import LocalLogger
from torch import distributed as dist

from nnunetv2_missmod.cli import train
from nnunetv2_missmod.host.doors import door_names
from nnunetv2_missmod.training.durable import DurableTrainer

LocalLogger.plot_progress_png = lambda *_: None  # takes longer than the training here
DurableTrainer.perform_actual_validation = lambda self, npz: dist.barrier()  # nnU-Net's own, which starts processes
torch.set_num_threads(1)
device = train.join_group("cpu")
for name in door_names():
    train.train(train.build_parser().parse_args([*sys.argv[1:], "-tr", name]), device)
dist.destroy_process_group()
