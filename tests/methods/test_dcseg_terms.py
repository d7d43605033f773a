"""L_reg against the released code's numbers, and who learns from L_mod."""

import pytest
import torch
from reference_values import TOLERANCES, as_input, assert_close, reference, stored_entries
from small_plans import random_batch, small_dataset_json, small_plans, small_trainer

from nnunetv2_missmod.building_blocks.per_modality import separate_loss
from nnunetv2_missmod.methods.dcseg.trainer import DCSegTrainer

# Small images are saved without nnU-Net's chunk sizes.
pytestmark = pytest.mark.filterwarnings("ignore:.*empty chunks or blocks")


def released_loss(probabilities, onehot):
    """Weighted CE and Dice of the released code (RFNet's, which DC-Seg calls), the latter over the whole batch."""
    voxels, space = onehot[0, 0].numel(), tuple(range(2, onehot.ndim))
    weights = 1 - onehot.sum(space, keepdim=True) / voxels
    wce = -(weights * onehot * probabilities.clamp(0.005, 1).log()).sum(1).mean()
    axes = (0, *space)
    overlap, sizes = (probabilities * onehot).sum(axes), probabilities.sum(axes) + onehot.sum(axes)
    return wce, 1 - (2 * overlap / (sizes + 1e-7)).mean()


def separate_loss_of(logits, onehot):
    """L_reg of complete cases, by the released loss."""
    every_modality = torch.arange(4).expand(len(onehot), -1)
    return separate_loss(
        lambda rows, target: sum(released_loss(rows.softmax(1), target)), logits, every_modality, onehot
    )


@pytest.fixture
def trainer(tmp_path, monkeypatch):
    plans = small_plans(4, 2, features=(8, 8, 8))
    return small_trainer(DCSegTrainer, plans, small_dataset_json(4), tmp_path, monkeypatch)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_the_loss_below_is_the_released_code_s(dtype):
    values = reference("dcseg_seg_a")
    probabilities, onehot = as_input(values["probs"], dtype), torch.from_numpy(values["onehot"]).to(dtype)
    wce, dice = released_loss(probabilities, onehot)
    assert_close(wce, values["wce"], torch.float32)
    assert_close(dice, values["dice"], torch.float32)
    (wce + dice).backward()
    assert_close(probabilities.grad, values["grad_probs_of_sum"], torch.float32)


def test_l_reg_sums_over_modalities_as_the_released_code_does():
    """Also where a modality's Dice is one of the whole batch."""
    values = reference("rfnet_separate_0")  # (M, N, K, D, H, W), the logits drawn for it
    logits = as_input(values["separate_logits"], torch.float64)
    target = torch.from_numpy(values["target"]).long()
    onehot = torch.nn.functional.one_hot(target, 4).movedim(-1, 1).double()
    loss = separate_loss_of(logits.transpose(0, 1).flatten(0, 1), onehot)
    expected = float(values["separate_wce"] + values["separate_dice"])
    assert loss.item() == pytest.approx(expected, rel=TOLERANCES[torch.float32])
    loss.backward()
    assert_close(stored_entries(logits.grad, values), values["grad_separate_logits"], torch.float32)


def test_l_reg_of_equal_modalities_is_m_times_the_loss_of_one():
    values = reference("dcseg_seg_a")
    logits = torch.from_numpy(values["probs"]).double().log()
    loss = separate_loss_of(logits.repeat_interleave(4, 0), torch.from_numpy(values["onehot"]).double())
    assert loss.item() == pytest.approx(4 * float(values["wce"] + values["dice"]), rel=TOLERANCES[torch.float32])


def test_l_mod_teaches_the_anatomy_encoders_nothing(trainer):
    """Nor D_sep, the fusion and the decoders: what it is worth is not to be seen in the segmentation alone."""
    trainer.training_loss(trainer.prepare_batch(random_batch(trainer)))["modality"].backward()
    learns = {
        name for name, part in trainer.network.named_children() if any(p.grad is not None for p in part.parameters())
    }
    assert learns == {"modality_encoders"}
