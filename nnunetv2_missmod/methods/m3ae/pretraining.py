"""The training step of M3AE's first stage: masked images are rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import Tensor

from nnunetv2_missmod.building_blocks.network import unwrapped
from nnunetv2_missmod.building_blocks.precision import full_precision
from nnunetv2_missmod.building_blocks.reconstruction import mse_reconstruction_loss
from nnunetv2_missmod.host.augmentation import spatial_only
from nnunetv2_missmod.host.logger import draw_progress_with
from nnunetv2_missmod.host.plan_block import check_choice
from nnunetv2_missmod.methods.m3ae.losses import mean_square_penalty, norm_penalty
from nnunetv2_missmod.methods.m3ae.masking import block_grid, draw_visible_blocks
from nnunetv2_missmod.methods.m3ae.network import M3AEOutput, M3AEPretrainNet
from nnunetv2_missmod.methods.m3ae.pictures import central_patch, draw_progress, draw_reconstruction, draw_substitute
from nnunetv2_missmod.methods.m3ae.stage import M3AEStage
from nnunetv2_missmod.methods.m3ae.substitute import initial_noise, pattern_correlation, pattern_rms
from nnunetv2_missmod.methods.m3ae.validation import error_per_subset, explained_variance, reconstruction_scores
from nnunetv2_missmod.training.availability import find_available
from nnunetv2_missmod.training.trainer import Batch
from nnunetv2_missmod.training.validation import nanmean, of_all_ranks, present_of_subset

ERROR = "reconstruction_error/"  # names of the subsets' errors in metrics.csv begin so


class M3AEPretrainTrainer(M3AEStage):
    """Stage 1 of M3AE (Liu et al. 2023): rebuild the images from few blocks of few modalities, and learn x_sub.

    Labels have no part in it. nnU-Net's "pseudo dice", in its log and in ``checkpoint_best.pth``, is the share of the
    images' variance that the reconstruction explains.
    """

    visible_fraction = 0.125  # of all blocks of all modalities; 1: modalities are dropped alone, Table 3 (b)
    gamma = 0.005  # gamma, weight of R(x_sub), Eq. 1 and 3
    penalty = "mean_square"  # R; "norm": as released
    substitute_lr = 0.005  # of x_sub (released code)

    num_epochs = 264  # 600 epochs of about 110 steps
    weight_decay = 0.0  # released code
    oversample_foreground_percent = 0.0

    build_network = staticmethod(M3AEPretrainNet.from_plans)
    # The target is the clean image.
    get_training_transforms = staticmethod(spatial_only(nnUNetTrainer.get_training_transforms))

    # --- set-up -------------------------------------------------------------------------------------------------------

    @classmethod
    def build_network_architecture(
        cls,
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> NoReturn:
        """Refuse to predict: this is what nnU-Net's predictor calls.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"Expected a trainer that segments, got {cls.__name__}, whose network rebuilds images. Train "
            "M3AETrainer, which starts from its checkpoint, and predict with -tr M3AETrainer."
        )

    def initialize(self) -> None:
        """Set up everything; in training there is a network to build.

        Raises:
            NotImplementedError: the configuration is the second stage of a cascade.
        """
        if self.is_cascaded:
            raise NotImplementedError(
                f"Expected a configuration without a previous stage, got {self.configuration_name}: there are no "
                "segmentations to pretrain on. Pretrain 3d_fullres or 3d_lowres, or train M3AETrainer on this one from "
                'scratch with "pretrained": false in the plan\'s missmod block.'
            )
        self.grid = block_grid(self.configuration_manager.patch_size)
        draw_progress_with(self.logger, self.draw_progress)
        self.build_network_architecture = super().build_network_architecture  # type: ignore[method-assign,assignment]
        super().initialize()
        self.substitute_seed: int | None = self.subset_seed
        network = unwrapped(self.network)
        with torch.no_grad():
            network.substitute.copy_(initial_noise(network.substitute.shape, self.subset_seed))

    def apply_plan_overrides(self) -> None:
        """Apply the plan's overrides and check them."""
        super().apply_plan_overrides()
        check_choice("penalty", self.penalty, ("mean_square", "norm"))
        if not 0 < self.visible_fraction <= 1:
            raise ValueError(f"Expected visible_fraction above 0 and at most 1, got {self.visible_fraction}.")

    def parameter_groups(self) -> list[dict[str, Any]]:
        """List what learns: x_sub, if it does, at a rate of its own."""
        network = unwrapped(self.network)
        network.substitute.requires_grad_(self.substitute == "learned")
        weights = [p for p in network.parameters() if p.requires_grad and p is not network.substitute]
        groups: list[dict[str, Any]] = [{"params": weights}]
        if network.substitute.requires_grad:
            groups.append({"params": [network.substitute], "lr": self.substitute_lr, "weight_decay": 0.0})
        return groups

    def on_train_start(self) -> None:
        """Start as nnU-Net does, and say what its words mean here."""
        super().on_train_start()
        self.print_to_log_file(
            '"Pseudo dice" below: share of each modality\'s variance that its reconstruction explains'
        )

    def set_deep_supervision_enabled(self, enabled: bool) -> None:
        """Leave it off: one reconstruction, at full resolution."""

    # --- one training step --------------------------------------------------------------------------------------------

    def draw_visible(self, present: Tensor) -> Tensor:
        """Draw the blocks (B, M, *grid) that the network gets to see of the modalities present (B, M)."""
        return draw_visible_blocks(present, self.grid, self.visible_fraction, self.generator)

    def training_loss(self, batch: Batch) -> dict[str, Tensor]:
        """MSE + gamma R(x_sub), Eq. 1 and 3."""
        out: M3AEOutput = self.network(batch.images, self.draw_visible(self.draw_subset(batch.available)))
        assert isinstance(out.logits, Tensor)
        with full_precision(self.device):
            reconstruction, images = out.logits.float(), batch.images.float()
            terms = {"reconstruction": mse_reconstruction_loss(reconstruction, images, batch.available)}
            if self.substitute == "learned":
                penalty = norm_penalty if self.penalty == "norm" else mean_square_penalty
                terms["substitute"] = self.gamma * penalty(unwrapped(self.network).substitute)
        return terms

    def on_train_epoch_end(self, train_outputs: list[dict[str, Tensor]]) -> None:
        """Report the terms, and whether x_sub has learned."""
        super().on_train_epoch_end(train_outputs)
        if self.substitute == "learned" and self.local_rank == 0:
            metrics = self.substitute_metrics()
            self.log_metrics(metrics)
            self.print_to_log_file("x_sub", {name: round(value, 4) for name, value in metrics.items()})

    def substitute_metrics(self) -> dict[str, float]:
        """Measure x_sub's pattern, and how much of it is the noise that it began as, where its seed is known."""
        substitute = unwrapped(self.network).substitute.detach()
        metrics = {"substitute/rms": pattern_rms(substitute)}
        if self.substitute_seed is not None:
            noise = initial_noise(substitute.shape, self.substitute_seed)
            metrics["substitute/correlation_with_noise"] = pattern_correlation(substitute, noise)
        return metrics

    # --- validation during training -----------------------------------------------------------------------------------

    def on_validation_epoch_start(self) -> None:
        """Give each step its subset, and the same blocks in every epoch."""
        super().on_validation_epoch_start()
        self.generator.manual_seed(self.subset_seed)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rebuild a batch from blocks of the step's subset."""
        subset = self.validation_subsets.pop(0)
        prepared = self.prepare_batch(batch)
        visible = self.draw_visible(present_of_subset(subset.to(self.device), prepared.available))
        with self.autocast():
            reconstruction = self.network(prepared.images, visible).float()
        return reconstruction_scores(reconstruction, prepared.images, prepared.available, subset, self.modalities)

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log the reconstruction error of every subset; checkpoint_best follows the explained variance."""
        val_outputs = of_all_ranks(val_outputs, self.is_ddp)
        explained = explained_variance(val_outputs)
        errors = error_per_subset(val_outputs)
        loss = float(np.mean([step["loss"] for step in val_outputs]))
        self.log_scores(explained, float(nanmean(explained)), loss)
        self.log_metrics({f"{ERROR}{name}": error for name, error in errors.items()})
        rounded = {name: round(error, 4) for name, error in errors.items()}
        self.print_to_log_file("Reconstruction error (MSE) by what is visible", rounded)

    def on_epoch_end(self) -> None:
        """End as nnU-Net does; now and then, draw what was learned so far."""
        super().on_epoch_end()
        if self.current_epoch % self.save_every == 0:
            self.draw_pictures()

    # --- at the end ---------------------------------------------------------------------------------------------------

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Draw what was learned; there is no segmentation to validate."""
        self.draw_pictures()
        self.print_to_log_file(
            f"Pretraining segments nothing, so there is no validation by Dice. Pictures of what it rebuilds: "
            f"{self.output_folder}. Next: train M3AETrainer on the same plan, configuration and fold."
        )

    def draw_progress(self, output_folder: str, curves: dict[str, Any]) -> None:
        """Draw progress.png: nnU-Net's curves, and the reconstruction error of every subset."""
        errors = [row for row in self.epoch_log.rows() if row[1].startswith(ERROR)]
        draw_progress(Path(output_folder) / "progress.png", curves, errors)

    def draw_pictures(self) -> None:
        """Write reconstruction.png, of a held-out case, and substitute.png, of x_sub, to the output folder."""
        images, available = self.held_out_patch()
        generator = torch.Generator(self.device).manual_seed(0)
        visible = draw_visible_blocks(available, self.grid, self.visible_fraction, generator)
        self.network.eval()
        with torch.no_grad(), self.autocast():  # on every rank: under DDP, one may wait for the others
            reconstruction = self.network(images, visible).float()
        if self.local_rank != 0:
            return
        folder, pictures = Path(self.output_folder), (images, visible, reconstruction)
        draw_reconstruction(folder / "reconstruction.png", self.modalities, *(p[0].cpu() for p in pictures))
        substitute = unwrapped(self.network).substitute.detach()[0]
        draw_substitute(folder / "substitute.png", self.modalities, substitute, images[0].cpu())

    def held_out_patch(self) -> tuple[Tensor, Tensor]:
        """Cut the middle (1, M, *patch) out of the first validation case; which modalities it has (1, M)."""
        _, cases = self.do_split()
        case = min(cases)
        dataset = self.dataset_class(self.preprocessed_dataset_folder, [case])
        available = find_available(dataset, show_progress=False)[case]
        patch = central_patch(dataset.load_case(case)[0][:], self.configuration_manager.patch_size)
        return self.to_device(torch.from_numpy(patch)[None]), self.to_device(torch.tensor([available]))

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def method_state(self) -> dict[str, Any]:
        """The base's, and the seed of the noise that x_sub began as."""
        return {**super().method_state(), "substitute_seed": self.substitute_seed}

    def load_method_state(self, state: Mapping[str, Any]) -> None:
        """Restore what ``method_state`` gave; earlier versions drew the noise from no seed of its own."""
        super().load_method_state(state)
        self.substitute_seed = state.get("substitute_seed")
