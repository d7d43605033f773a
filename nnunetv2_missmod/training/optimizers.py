"""The optimizers, and the schedules of their learning rate, that a plan names by a word."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("poly", "cosine")
NNUNETS_MOMENTUM = 0.99


def build_optimizer(
    name: str,
    parameters: Iterable[Any],
    initial_lr: float,
    weight_decay: float,
    amsgrad: bool = False,
    betas: tuple[float, float] = (0.9, 0.999),
) -> Optimizer:
    """Build nnU-Net's SGD (Nesterov momentum 0.99), Adam or AdamW.

    Args:
        name: one of ``OPTIMIZERS``.
        parameters: or groups of them, which may have rates of their own.
        initial_lr, weight_decay: of all groups that have none of their own.
        amsgrad, betas: of Adam and AdamW.
    """
    if name == "sgd":
        return SGD(parameters, initial_lr, NNUNETS_MOMENTUM, weight_decay=weight_decay, nesterov=True)
    kind: type[Adam | AdamW] = {"adam": Adam, "adamw": AdamW}[name]
    return kind(parameters, initial_lr, betas, weight_decay=weight_decay, amsgrad=amsgrad)


def build_schedule(name: str, optimizer: Optimizer, initial_lr: float, num_epochs: int) -> LRScheduler:
    """Build nnU-Net's schedule, (1 - epoch / epochs)^0.9, or half a cosine to zero, for one step per epoch.

    Args:
        name: one of ``SCHEDULES``.
        optimizer: each of its groups starts from its own learning rate.
        initial_lr: of the optimizer.
        num_epochs: until the rate is zero.
    """
    if name == "poly":
        return PolyLR(optimizer, initial_lr, num_epochs)
    return CosineLR(optimizer, num_epochs)


def require_learning_rate(overrides: Mapping[str, Any], own: str) -> None:
    """Check that a plan which trades SGD for Adam, or Adam for SGD, gives the learning rate as well.

    Args:
        overrides: the plan's for one trainer.
        own: the optimizer that the trainer has without them.

    Raises:
        ValueError: it does not; a rate of the one is none for the other.
    """
    name = overrides.get("optimizer_name", own)
    if (name == "sgd") != (own == "sgd") and "initial_lr" not in overrides:
        usual = "1e-2" if name == "sgd" else "1e-3 to 1e-4"
        raise ValueError(
            f"Expected initial_lr beside optimizer_name = {name!r} in the plan's missmod block, got none, and the "
            f"trainer's own is for {own}. Usual for {name} is {usual}."
        )


class PolyLR(PolyLRScheduler):
    """nnU-Net's schedule for optimizers whose groups differ in their rates; it would give all of them the same."""

    def __init__(self, optimizer: Optimizer, initial_lr: float, num_epochs: int):
        self.own_rates = [group["lr"] for group in optimizer.param_groups]
        super().__init__(optimizer, initial_lr, num_epochs)

    def step(self, current_step: int | None = None) -> None:
        """Set the rates of an epoch."""
        epoch = self.ctr if current_step in (None, -1) else current_step
        super().step(current_step)
        for group, rate in zip(self.optimizer.param_groups, self.own_rates, strict=True):
            group["lr"] = rate * (1 - epoch / self.max_steps) ** self.exponent


class CosineLR(CosineAnnealingLR):
    """Cosine to zero. nnU-Net tells it the epoch, and before the first step: torch would warn of both."""

    def step(self, epoch: int | None = None) -> None:
        """Set the rates of an epoch."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            super().step(epoch)
