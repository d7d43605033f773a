"""From pretraining to fine-tuning: finding the checkpoint, and saying what is wrong with one that does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from nnunetv2_missmod.files.dataset_json import channel_names
from nnunetv2_missmod.host.checkpoint import load_data
from nnunetv2_missmod.host.unet import HEADS


def find_pretrained(results: Path, pretraining: str, plans: str, configuration: str, fold: int | str) -> Path:
    """Find the final checkpoint of the pretraining on the same plan, configuration and fold.

    Args:
        results: the dataset's folder in nnUNet_results.
        pretraining: name of the trainer that pretrained.
        plans: name of the plan.
        configuration: such as 3d_fullres.
        fold: a number, or "all".

    Raises:
        ValueError: there is none, or the pretraining has not ended; names the command that mends it.
    """
    folder = results / f"{pretraining}__{plans}__{configuration}" / f"fold_{fold}"
    file = folder / "checkpoint_final.pth"
    if file.is_file():
        return file
    begun = any(folder.glob("checkpoint_*.pth"))
    command = f"nnUNetv2_train {results.name} {configuration} {fold} -tr {pretraining} -p {plans}{' --c' * begun}"
    raise ValueError(
        f"Expected a pretrained checkpoint {file}, got {'a pretraining that has not ended' if begun else 'none'}. "
        f"Run `{command}` first, give another checkpoint with -pretrained_weights FILE, or train from scratch with "
        f'"pretrained": false in the plan\'s missmod block.'
    )


def load_pretrained(network: nn.Module, file: Path, modalities: Sequence[str]) -> None:
    """Copy all weights of a pretraining but the heads.

    Args:
        network: an ``M3AENet``.
        file: the pretraining's checkpoint.
        modalities: names of the network's modalities, in order.

    Raises:
        ValueError: the checkpoint is damaged, holds more than data, or is of other modalities, another patch or another
            architecture; says which.
    """
    try:
        checkpoint: dict[str, Any] = load_data(file)
    except ValueError as error:
        raise ValueError(f"Expected a pretrained checkpoint that holds data alone, got {file}: {error}") from error
    weights: dict[str, Tensor] = checkpoint["network_weights"]
    own = network.state_dict()
    names = channel_names(checkpoint["init_args"]["dataset_json"])
    reason = _other_modalities(names, modalities) or _other_shapes(weights, own)
    if reason:
        raise ValueError(f"The pretrained checkpoint {file} does not fit this training: {reason}. Pretrain again.")
    network.load_state_dict({key: own[key] if HEADS in key else weights[key] for key in own})


def _other_modalities(names: Sequence[str], modalities: Sequence[str]) -> str:
    if list(names) == list(modalities):
        return ""
    return (
        f"expected {len(modalities)} modalities, {', '.join(modalities)}, got {len(names)}, {', '.join(names)}, "
        "from another dataset.json"
    )


def _other_shapes(weights: dict[str, Tensor], own: dict[str, Tensor]) -> str:
    if "substitute" not in weights:
        return "expected a substitute for absent modalities in it, got none: it is no pretraining of M3AE"
    expected, got = (" x ".join(map(str, w["substitute"].shape[2:])) for w in (own, weights))
    if expected != got:
        return f"expected the plan's patch of {expected} voxels, got {got}, from another plan"
    for key in [*own, *weights]:
        wanted, found = (tuple(w[key].shape) if key in w else "nothing" for w in (own, weights))
        if wanted != found and HEADS not in key:
            return f"expected {key} of shape {wanted}, got {found}, from a plan with another network"
    return ""
