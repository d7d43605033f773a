"""DC-Seg: disentangled contrastive learning (Li et al., MICCAI 2025).

Idea: each modality's image is split into an anatomy map, which all modalities of a patient share, and a style code,
which all patients share for a modality. Two contrastive terms and a reconstruction (anatomy + style = image) enforce
the split. The segmentation reads the fused anatomy of whatever modalities are there.

Paper: Li et al., "DC-Seg: Disentangled Contrastive Learning for Brain Tumor Segmentation with Missing Modalities",
MICCAI 2025. Region-aware fusion: Ding et al., "RFNet", ICCV 2021.

At a glance

    ==========  ================================================================================================
    genre       catch-all
    shared      fusion and decoders
    missing     zero maps, which every region's weights leave out
    losses      segmentation; each modality alone; region maps; contrast of anatomy and of style; reconstruction
    step        3.01
    15 subsets  10.7
    paper       Li et al., MICCAI 2025
    ==========  ================================================================================================

Deviations (paper / released code / here)

* segmentation loss: weighted CE + Dice / the same / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoders: 4 levels, 16-128 / the same / the plan's topology with F_l / sqrt(M) features.
* SSIM in L_ana: global statistics, Eq. 3 / Gaussian window, data-dependent C1 and C2 / Eq. 3 with C1 = 1e-4,
  C2 = 9e-4 (the paper gives none); the released form by ``ssim_window = 11``.
* temperature: none given / 1/0.07, constant / 1/0.07.
* a_j of L_ana: not said / the bottleneck, 1/8 of the image / the level whose stride is nearest to 8 (of an
  anisotropic one, the axes' geometric mean; of two as near, the deeper): a plan's bottleneck is often 4^3 to 7^3.
  The bottleneck by ``anatomy_level = "bottleneck"``, a constant of the network. z of L_rec is the fused bottleneck.
* pairs in L_ana: all / all / not two crops of one patient, which share a patient but not an anatomy map.
* mean over pairs in L_ana: all alike / the same / the same. Positive ones are 1 / batch of all, half at the paper's
  batch of 2, 2 % at 49, where L_ana mostly repels; with ``balanced_pairs`` positive and negative pairs have half of
  the loss each. L_mod, whose positive pairs are 1 / M whatever the batch, stays as it is.
* L_rec: L1 sum / MSE mean / L1 mean over the voxels of the available modalities.
* L_reg: sum over modalities / the same / the same, one after the other where Dice is one of a batch.
  ``separate_modalities = 1`` draws one modality for the batch in each step in place of all, scaled up: the same in
  expectation, a quarter of the separate decoder's work with four modalities.
* style code: 8 values / 128 / 8 (``code_channels``).
* AdaIN: no eps / no eps / eps 1e-5 on the variance (a blank patch gives NaN without).
* reconstruction decoders: not described / 62 % of the training forward / two residual blocks at half the
  bottleneck's channels, a quarter of them at each finer level, at least 8; no norm, which would undo AdaIN.
* region maps: absent from Eq. 9 / supervised with weight 1 / supervised with weight 1 (``region_weight``) at every
  level, weights 2^-level: nnU-Net's deep supervision would leave the two deepest maps, which the fusion uses, with
  no loss at all. Released, 4 levels are summed; here it is a mean, whose weight does not grow with a plan's depth
  (``region_weight = 4`` gives the sum's size). Overlapping regions (sigmoid) get one more map, 1 - their maximum,
  for the background.
* L_seg off in the first 20 of 500 epochs: no / yes / no (``warm_up_epochs``). KL on AdaIN's mu, sigma: no / 0.1 /
  no (``kl_weight``).
* an incomplete case: not treated / not treated / L_reg is M times the mean over the modalities it has (a slot of an
  absent one repeats another, drawn at random), the other terms leave its absent ones out.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does; released: no clipping, rotation of 10
  degrees, intensity changes of 10 %, flips.

L_mod gives the anatomy encoders no gradient, neither in the paper nor here: the codes alone learn from it. What its
ablation changes in a segmentation goes by way of L_rec, or is chance.

Settings (symbol in the paper / paper / released code / default)

    ========================= ========= ============== ============== ===========
    setting                   symbol    paper          released       default
    ========================= ========= ============== ============== ===========
    ``alpha``                 alpha     0.4            0.4            0.4
    ``t``                     t         -              1/0.07         14.2857
    ``ssim_window``           -         global         11             0
    ``balanced_pairs``        -         no             no             False
    ``anatomy_weight``        -         1              1              1.0
    ``modality_weight``       -         1              1              1.0
    ``reconstruction_weight`` -         1              1              1.0
    ``separate_weight``       -         1              1              1.0
    ``region_weight``         -         -              1, summed      1.0
    ``kl_weight``             -         -              0.1            0.0
    ``warm_up_epochs``        -         -              20             0
    ``num_epochs``            -         500            500            220
    ``initial_lr``            -         2e-4           2e-4           2e-4
    ``weight_decay``          -         -              1e-4           1e-4
    ``optimizer_name``        -         Adam           Adam           "adam"
    ``amsgrad``               -         -              yes            True
    ``code_channels``         m_j       8              128            8
    ``overlapping_regions``   -         -              no             False
    ``anatomy_level``         a_j       -              1/8            "stride_8"
    ========================= ========= ============== ============== ===========
    ``-``: says nothing. 220 epochs of nnU-Net are the 500 of the paper. ``code_channels`` and what follows are
    constants of the network, of which the trainer sets ``overlapping_regions`` by the dataset's labels.

Can I use?

    =========================== ====================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes (contrastive terms gather over ranks)
    incomplete training cases   yes
    batch size 1                yes on several GPUs; on one, L_ana has no negatives
    =========================== ====================================================
"""
