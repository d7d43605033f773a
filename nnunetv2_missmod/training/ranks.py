"""The processes of a training over several GPUs or machines (DDP): what is each one's own, and what all must share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel


def over_ranks(network: nn.Module, device: torch.device) -> nn.Module:
    """Wrap a network on a rank's device so that its gradients are those of all ranks."""
    network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    return DistributedDataParallel(network, device_ids=[device] if device.type == "cuda" else None)


def from_first_rank(value: Any) -> Any:
    """Give every rank the value of the first."""
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


@contextmanager
def first_rank_first(is_ddp: bool) -> Iterator[None]:
    """Let the others wait until the first rank is through: what it writes to the shared disk is whole by then."""
    if is_ddp and dist.get_rank() != 0:
        dist.barrier()
    yield
    if is_ddp and dist.get_rank() == 0:
        dist.barrier()


def require_sample_each(batch_size: int) -> None:
    """Check that the plan's batch can be divided among the ranks.

    Raises:
        ValueError: it is smaller than their number.
    """
    if batch_size < dist.get_world_size():
        raise ValueError(
            f"Expected a batch of at least {dist.get_world_size()}, a sample for each process, got {batch_size}. Raise "
            "batch_size in the plan, or start fewer processes."
        )


def require_same_epoch(epoch: int) -> None:
    """Check that all ranks are about to train the same epoch.

    Raises:
        RuntimeError: some found another checkpoint than others, or none.
    """
    epochs: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(epochs, epoch)
    if len(set(epochs)) > 1:
        raise RuntimeError(
            f"Expected all processes to go on from the same epoch, got {epochs}, by rank: not all see the same "
            "checkpoints. nnUNet_results must be one folder, shared by all machines."
        )
