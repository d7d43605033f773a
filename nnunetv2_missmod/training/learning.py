"""The training step of several networks: who learns from which terms of the loss, in which order, by what optimizer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.training.durable import DurableTrainer
from nnunetv2_missmod.training.optimizers import OPTIMIZERS, SCHEDULES, build_optimizer, build_schedule
from nnunetv2_missmod.training.ranks import over_ranks
from nnunetv2_missmod.training.terms import require_finite

BETA_1 = 0.9  # of Adam and AdamW
MAX_NORM = 12  # to which nnU-Net clips a network's gradients


class Learner(NamedTuple):
    """A network that learns, and its optimizer."""

    network: nn.Module
    optimizer: Optimizer


class Update(NamedTuple):
    """A part of a training step: learners, and the terms by name, each weighted, from whose sum they learn."""

    learners: list[Learner]
    terms: dict[str, Tensor]


class LearningTrainer(DurableTrainer):
    """nnU-Net's trainer for any number of learners, with the optimizer and its schedule for settings."""

    optimizer_name = "sgd"  # or "adam", "adamw"
    lr_schedule = "poly"  # or "cosine"
    amsgrad = False  # of Adam and AdamW
    adam_beta2 = 0.999  # of Adam and AdamW; beta_1 is 0.9

    # --- optimizers ---------------------------------------------------------------------------------------------------

    def check_optimizer(self) -> None:
        """Check what names and shapes optimizer and schedule (ValueError: an unknown word, or a beta_2 of 1)."""
        check_choice("optimizer_name", self.optimizer_name, OPTIMIZERS)
        check_choice("lr_schedule", self.lr_schedule, SCHEDULES)
        if not 0 <= self.adam_beta2 < 1:
            raise ValueError(f"Expected adam_beta2 from 0 to below 1, got {self.adam_beta2}. Correct it in the plan.")

    def configure_optimizers(self) -> tuple[Optimizer, LRScheduler]:
        """Build what the settings name."""
        optimizer = self.build_optimizer(self.parameter_groups())
        return optimizer, build_schedule(self.lr_schedule, optimizer, self.initial_lr, self.num_epochs)

    def build_optimizer(self, parameters: Iterable[Any]) -> Optimizer:
        """Build the optimizer that the settings name, for parameters or groups of them."""
        betas = (BETA_1, self.adam_beta2)
        return build_optimizer(self.optimizer_name, parameters, self.initial_lr, self.weight_decay, self.amsgrad, betas)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """List what the optimizer changes; a method may leave some out, or give a group an ``lr`` of its own."""
        return [{"params": list(self.network.parameters())}]

    # --- what learns beside the network -------------------------------------------------------------------------------

    def companions(self) -> dict[str, Learner]:
        """List by name what learns beside the network: teachers, discriminators. A method makes them in initialize.

        They are in the checkpoint, and take the network's learning rate at the start of each epoch.
        """
        return {}

    def beside(self, network: nn.Module, compiles: bool) -> nn.Module:
        """Treat a network as nnU-Net does its own: on the device, compiled, its gradients under DDP those of all."""
        network = network.to(self.device)
        if compiles:
            network = cast(nn.Module, torch.compile(network))
        return over_ranks(network, self.device) if self.is_ddp else network

    def on_train_epoch_start(self) -> None:
        """Give the companions the network's learning rate."""
        super().on_train_epoch_start()
        for learner in self.companions().values():
            for group in learner.optimizer.param_groups:
                group["lr"] = self.optimizer.param_groups[0]["lr"]

    # --- one training step --------------------------------------------------------------------------------------------

    def learners(self) -> list[Learner]:
        """List all networks that learn in a step."""
        return [Learner(self.network, self.optimizer), *self.companions().values()]

    def take(self, updates: Iterator[Update]) -> dict[str, Tensor]:
        """Take a step's updates in their order, each before the terms of the next are computed.

        Returns:
            ``loss``, the sum of all terms, and each of them; scalars on the device.

        Raises:
            RuntimeError: without a gradient scaler, which would skip the step, as soon as a term is not finite.
        """
        for learner in self.learners():
            learner.optimizer.zero_grad(set_to_none=True)
        outputs: dict[str, Tensor] = {}
        for update in self.computed(updates):
            total = torch.stack(list(update.terms.values())).sum()
            found = {"loss": total.detach(), **{name: term.detach() for name, term in update.terms.items()}}
            if self.grad_scaler is None:
                self.check_finite([found])
            self.backward_and_step(total, update.learners)
            loss = found["loss"] + outputs["loss"] if outputs else found["loss"]
            outputs |= {**found, "loss": loss}
        self.scaler.update()
        return outputs

    def computed(self, updates: Iterator[Update]) -> Iterator[Update]:
        """Compute one update's terms after the other under autocast, which is off while they are learned from."""
        while True:
            with self.autocast():
                update = next(updates, None)
            if update is None:
                return
            yield update

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision where nnU-Net uses it: on CUDA."""
        return torch.autocast("cuda") if self.device.type == "cuda" else nullcontext()

    def backward_and_step(self, loss: Tensor, learners: list[Learner]) -> None:
        """Scale, clip and step as nnU-Net does."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
        for learner in learners:
            self.step(learner)

    @property
    def scaler(self) -> GradScaler:
        """nnU-Net's gradient scaler; without mixed precision, one that changes nothing."""
        return self.grad_scaler or GradScaler(enabled=False)

    def step(self, learner: Learner) -> None:
        """Unscale and clip a network's gradients and take its step."""
        self.scaler.unscale_(learner.optimizer)
        torch.nn.utils.clip_grad_norm_(learner.network.parameters(), MAX_NORM)
        self.scaler.step(learner.optimizer)

    def check_finite(self, train_outputs: list[dict[str, Tensor]]) -> None:
        """Stop a training whose loss is not finite in most of the given steps (RuntimeError); log fewer."""
        if warning := require_finite(train_outputs, self.current_epoch, self.is_ddp):
            self.print_to_log_file(warning)

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def method_state(self) -> dict[str, Any]:
        """What a checkpoint must hold beyond nnU-Net's own; a method adds its optimizers and modules here."""
        state = {**super().method_state(), "optimizer_name": self.optimizer_name}
        for name, (network, optimizer) in self.companions().items():
            state[name] = {"network": unwrapped(network).state_dict(), "optimizer": optimizer.state_dict()}
        return state

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``method_state`` gave."""
        super().load_method_state(state)
        for name, (network, optimizer) in self.companions().items():
            unwrapped(network).load_state_dict(state[name]["network"])
            optimizer.load_state_dict(state[name]["optimizer"])

    def check_method_state(self, state: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another optimizer, whose moments mean something else, or without all that learns.

        Raises:
            ValueError: names both.
        """
        super().check_method_state(state)
        if lacking := sorted(set(self.companions()) - set(state)):
            raise ValueError(
                f"Expected a checkpoint with {', '.join(lacking)}, which the plan's settings ask for, got one without. "
                "Set the plan's missmod block back, or train anew without --c."
            )
        of_checkpoint = state.get("optimizer_name", type(self).optimizer_name)  # earlier versions had no choice
        if of_checkpoint != self.optimizer_name:
            raise ValueError(
                f"Expected a checkpoint of a training with {self.optimizer_name}, as the plan has it, got one with "
                f"{of_checkpoint}. Set optimizer_name back in the plan's missmod block, or train anew without --c."
            )
