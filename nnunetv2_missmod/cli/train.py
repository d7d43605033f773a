"""``nnUNetv2_train`` under torchrun: one training over several GPUs, machines or restarts.

    torchrun --nnodes=2 --nproc-per-node=4 ... -m nnunetv2_missmod.cli.train 501 3d_fullres 0 -tr DCSegTrainer --c

nnU-Net's own command starts its processes itself, on one machine; this one joins those that torchrun started.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import distributed as dist
from torch.backends import cudnn

from nnunetv2_missmod.host.checkpoint import CHECKPOINTS
from nnunetv2_missmod.host.doors import with_doors
from nnunetv2_missmod.host.train_command import load, make_trainer
from nnunetv2_missmod.machine.forked_workers import end_with_parent
from nnunetv2_missmod.training.durable import DurableTrainer

BACKENDS = {"cuda": "nccl", "cpu": "gloo"}


def build_parser() -> argparse.ArgumentParser:
    """Build the parser of nnUNetv2_train's flags; how many processes there are, torchrun knows."""
    parser = argparse.ArgumentParser("nnunetv2_missmod.cli.train", description=__doc__)
    parser.add_argument("dataset_name_or_id", help="number or name of the dataset")
    parser.add_argument("configuration", help="such as 3d_fullres")
    parser.add_argument("fold", type=lambda fold: fold if fold == "all" else int(fold), help="0 to 4, or all")
    parser.add_argument("-tr", required=True, help="one of this package's trainers")
    parser.add_argument("-p", default="nnUNetPlans", help="name of the plan")
    parser.add_argument("-pretrained_weights", help="checkpoint to start from")
    parser.add_argument("-device", choices=sorted(BACKENDS), default="cuda", help="cuda, or cpu")
    parser.add_argument("--c", action="store_true", help="go on from the last checkpoint, if there is one")
    parser.add_argument("--val", action="store_true", help="validate alone; the training has ended")
    parser.add_argument(
        "--val_best", action="store_true", help="validate checkpoint_best.pth, not checkpoint_final.pth"
    )
    parser.add_argument("--npz", action="store_true", help="save the validation's probabilities as well")
    parser.add_argument("--disable_checkpointing", action="store_true", help="write no checkpoint")
    return parser


def join_group(device: str) -> torch.device:
    """Join the processes that torchrun started; give this one's device.

    Raises:
        ValueError: torchrun started none, or more than this machine has GPUs, or could not restart them.
    """
    if "LOCAL_RANK" not in os.environ:
        raise ValueError(
            "Expected to be started by torchrun. On one machine it is `torchrun --nproc-per-node=GPUS -m "
            "nnunetv2_missmod.cli.train ...`; for a single GPU use nnUNetv2_train."
        )
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True" and int(os.environ["TORCHELASTIC_MAX_RESTARTS"]) > 0:
        raise ValueError(
            "Expected TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 in torchrun's environment where --max-restarts is above 0: "
            "otherwise restarted processes look for each other where those before them were. Export it."
        )
    local_rank = int(os.environ["LOCAL_RANK"])  # of this machine; nnU-Net's trainer calls the rank of all its local one
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise ValueError(
                f"Expected as many GPUs as --nproc-per-node, got {torch.cuda.device_count()} for process {local_rank} "
                "of this machine, counted from 0. Lower --nproc-per-node, or train with -device cpu."
            )
        torch.cuda.set_device(local_rank)
        torch.set_num_threads(1)
        cudnn.benchmark = True
    dist.init_process_group(BACKENDS[device])
    return torch.device("cuda", local_rank) if device == "cuda" else torch.device(device)


def was_restarted() -> bool:
    """Whether torchrun restarted the processes; it counts on the machine where one failed."""
    counts = [0] * dist.get_world_size()
    dist.all_gather_object(counts, int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")))
    return max(counts) > 0


def goes_on(output_folder: str, restarted: bool, parsed: argparse.Namespace) -> bool:
    """Whether to go on from a checkpoint: with --c, or in a training that was restarted and has one.

    Raises:
        ValueError: a new training would begin among the checkpoints of another, which a restart could not tell apart.
    """
    found = [name for name in CHECKPOINTS if (Path(output_folder) / name).is_file()]
    if found and not (parsed.c or parsed.val or restarted):
        raise ValueError(
            f"Expected no checkpoint in {output_folder}, got {', '.join(found)}. Go on from it with --c, or move the "
            "folder away to begin anew."
        )
    return bool(found) and not parsed.val


def train(parsed: argparse.Namespace, device: torch.device) -> None:
    """Train and validate, as nnU-Net does in each of its processes.

    Raises:
        ValueError: flags that exclude each other, or a trainer that is not of this package.
    """
    if parsed.val and parsed.c:
        raise ValueError("Expected --c, to train on, or --val, to validate alone, got both.")
    if parsed.val_best and parsed.disable_checkpointing:
        raise ValueError("Expected --val_best or --disable_checkpointing, which writes no best checkpoint, got both.")
    choice = parsed.dataset_name_or_id, parsed.configuration, parsed.fold, parsed.tr, parsed.p
    trainer = make_trainer(*choice, parsed.c, device)
    if not isinstance(trainer, DurableTrainer):
        raise ValueError(f"Expected one of this package's trainers, got {parsed.tr}, which takes its rank for its GPU.")
    trainer.disable_checkpointing = parsed.disable_checkpointing
    resumes = goes_on(trainer.output_folder, was_restarted(), parsed)
    load(trainer, resumes, parsed.val, None if resumes else parsed.pretrained_weights)
    if not parsed.val:
        trainer.run_training()
    if parsed.val_best:
        trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_best.pth"))
    trainer.perform_actual_validation(parsed.npz)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command in one of torchrun's processes."""
    parsed = build_parser().parse_args(arguments)
    end_with_parent()
    os.environ.update(with_doors(os.environ))
    train(parsed, join_group(parsed.device))
    dist.destroy_process_group()  # after an error the others would be waited for; torchrun ends them


if __name__ == "__main__":
    main()
