"""What keeps a training whole: through kills, full disks and the end of memory, on one GPU or on several machines."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from nnunetv2_missmod.host.logger import log_scores, moving_averages
from nnunetv2_missmod.host.trainer import HostTrainer
from nnunetv2_missmod.machine.forked_workers import workers_end_with_us
from nnunetv2_missmod.machine.out_of_memory import training_levers
from nnunetv2_missmod.training.before_training import require_cases, require_enough_to_split, require_schedule
from nnunetv2_missmod.training.checkpoint_files import (
    remove_unfinished_checkpoints,
    require_archive,
    require_whole_checkpoint,
    whole_file,
)
from nnunetv2_missmod.training.expected_end import FirstUpdates, expected_by_updates, expected_end, is_to_be_said
from nnunetv2_missmod.training.ranks import first_rank_first, over_ranks, require_same_epoch, require_sample_each
from nnunetv2_missmod.training.validation import best_epoch


class DurableTrainer(HostTrainer):
    """nnU-Net's trainer, which can be killed at any moment and may run on more than one machine."""

    memory_settings: tuple[str, ...] = ()  # settings by which a step of a method needs less memory
    epoch_begun = 0.0
    epoch_seconds: tuple[float, ...] = ()  # of this run
    first_updates: FirstUpdates | None = None  # while they are being timed

    # --- set-up -------------------------------------------------------------------------------------------------------

    def initialize(self) -> None:
        """Set up everything as nnU-Net does, but under DDP on this rank's device.

        Raises:
            ValueError: a checkpoint every 0 epochs, a validation of 0 steps, or more processes than samples.
        """
        require_schedule(self.save_every, self.num_val_iterations_per_epoch)
        if self.is_ddp:
            require_sample_each(self.configuration_manager.batch_size)
        self.initialize_on(over_ranks)

    def get_tr_and_val_datasets(self) -> tuple[Any, Any]:
        """Load nnU-Net's datasets.

        Raises:
            ValueError: there is no case to train on, or none to validate with.
        """
        splits_file = Path(self.preprocessed_dataset_folder_base) / "splits_final.json"
        with first_rank_first(self.is_ddp):  # it may write the splits
            cases = self.dataset_class.get_identifiers(self.preprocessed_dataset_folder)
            require_enough_to_split(cases, self.fold, splits_file)
            training, validation = super().get_tr_and_val_datasets()
        require_cases(training.identifiers, validation.identifiers, self.fold)
        return training, validation

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Start nnU-Net's workers; they end with this process, however it ends."""
        with workers_end_with_us():
            loaders: tuple[Any, Any] = super().get_dataloaders()
        return loaders

    # --- training -----------------------------------------------------------------------------------------------------

    def run_training(self) -> None:
        """Train as nnU-Net does.

        Raises:
            RuntimeError: memory ended; says what makes a step smaller.
        """
        patch = " x ".join(str(size) for size in self.configuration_manager.patch_size)
        step = f"a batch of {self.configuration_manager.batch_size}, a patch of {patch} voxels"
        step += f" and {len(self.dataset_json['channel_names'])} modalities"
        planned = f"-d {self.plans_manager.dataset_name} -c {self.configuration_name}"
        with training_levers(type(self).__name__, planned, step, self.device, self.memory_settings):
            super().run_training()

    def on_train_start(self) -> None:
        """Start as nnU-Net does, where the run before stopped."""
        super().on_train_start()
        if self.is_ddp:
            require_same_epoch(self.current_epoch)
        if self.local_rank == 0:
            remove_unfinished_checkpoints(self.output_folder)
        self.catch_up_with_best()

    def catch_up_with_best(self) -> None:
        """Find the best epoch so far in the log, and write checkpoint_best if it is the last.

        nnU-Net writes checkpoint_latest before it looks whether the epoch was the best: a resumed run would not know.
        """
        averages = moving_averages(self.logger)[: self.current_epoch]
        best = best_epoch(averages)
        self.best_average = None if best is None else averages[best]
        if best is not None and best == self.current_epoch - 1:
            self.current_epoch -= 1  # as nnU-Net has it when an epoch ends
            self.save_checkpoint(str(Path(self.output_folder) / "checkpoint_best.pth"))
            self.current_epoch += 1

    def log_scores(self, scores: Iterable[float], mean: float, loss: float) -> None:
        """Log an epoch's validation to nnU-Net's curves: scores of each class or region, their mean, and the loss."""
        log_scores(self.logger, self.current_epoch, scores, mean, loss)

    def on_epoch_start(self) -> None:
        """Begin as nnU-Net does, and look at the clock."""
        self.epoch_begun = time.monotonic()
        self.first_updates = None if self.epoch_seconds else FirstUpdates()
        super().on_epoch_start()

    def on_update_end(self) -> None:
        """Say, once, when the training will end, as soon as its first updates tell."""
        if self.first_updates is None or (each := self.first_updates.speed(time.monotonic())) is None:
            return
        done = self.current_epoch * self.num_iterations_per_epoch + len(self.first_updates.ends)
        left = self.num_epochs * self.num_iterations_per_epoch - done
        self.first_updates = None
        self.print_to_log_file(expected_by_updates(each, left, datetime.now()))

    def on_epoch_end(self) -> None:
        """End as nnU-Net does, where a best score that is none gives way to any; say when the training will end."""
        if self.best_average is not None and math.isnan(self.best_average):
            self.best_average = None
        super().on_epoch_end()
        self.epoch_seconds = (*self.epoch_seconds, time.monotonic() - self.epoch_begun)
        left = self.num_epochs - self.current_epoch
        if left > 0 and is_to_be_said(len(self.epoch_seconds), self.num_epochs):
            self.print_to_log_file(expected_end(self.epoch_seconds, left, datetime.now()))

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def method_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond nnU-Net's own; a method adds its optimizers and modules here."""
        return {}

    def check_method_state(self, state: Mapping[str, Any]) -> None:
        """Refuse, before anything is loaded, a checkpoint that does not go with this training (ValueError)."""

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``method_state`` gave."""

    def save_checkpoint(self, filename: str) -> None:
        """Write nnU-Net's checkpoint with the method's state in it; a run killed meanwhile keeps the former file.

        Raises:
            OSError: the disk is full.
        """
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)
            return
        with whole_file(filename) as unfinished:
            super().save_checkpoint(unfinished)
            checkpoint = torch.load(unfinished, map_location="cpu", weights_only=False)
            torch.save({**checkpoint, "missmod": self.method_state()}, unfinished)
            require_archive(unfinished)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Restore nnU-Net's state and the method's.

        Raises:
            ValueError: the file is cut off or damaged, or another trainer's or optimizer's.
        """
        assert isinstance(filename_or_checkpoint, str)  # as in nnU-Net, which cannot take a dict either
        require_whole_checkpoint(filename_or_checkpoint)
        checkpoint = torch.load(filename_or_checkpoint, map_location=self.device, mmap=True, weights_only=False)
        if "missmod" not in checkpoint:
            raise ValueError(
                f"Expected a checkpoint of {type(self).__name__}, got {filename_or_checkpoint} of "
                f"{checkpoint.get('trainer_name')}. Weights alone are taken over with -pretrained_weights."
            )
        if not self.was_initialized:  # as by nnU-Net's command with --c; the plan's settings are read there
            self.initialize()
        self.check_method_state(checkpoint["missmod"])
        super().load_checkpoint(filename_or_checkpoint)
        self.load_method_state(checkpoint["missmod"])
