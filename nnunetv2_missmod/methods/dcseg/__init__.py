"""DC-Seg: disentangled contrastive learning (Li et al., MICCAI 2025).

Idea: each modality's image is split into an anatomy map, which all modalities of a patient share, and a style code,
which all patients share for a modality. Two contrastive terms and a reconstruction (anatomy + style = image) enforce
the split. The segmentation reads the fused anatomy of whatever modalities are there.

Paper: Li et al., "DC-Seg: Disentangled Contrastive Learning for Brain Tumor Segmentation with Missing Modalities",
MICCAI 2025. Region-aware fusion: Ding et al., "RFNet", ICCV 2021.

Deviations (paper / released code / here)
    * segmentation loss: weighted CE + Dice / the same / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
    * encoders and decoders: 4 levels, 16-128 / the same / the plan's topology with F_l / sqrt(M) features.
    * SSIM in L_ana: global statistics, Eq. 3 / Gaussian window, data-dependent C1 and C2 / Eq. 3 with C1 = 1e-4,
      C2 = 9e-4 (the paper gives none); the released form by ``ssim_window = 11``.
    * temperature: none given / 1/0.07, constant / 1/0.07.
    * pairs in L_ana: all / all / not two crops of one patient, which share a patient but not an anatomy map.
    * L_rec: L1 sum / MSE mean / L1 mean over the voxels of the available modalities.
    * style code: 8 values / 128 / 8 (``code_channels``).
    * AdaIN: no eps / no eps / eps 1e-5 on the variance (a blank patch gives NaN without).
    * reconstruction decoders: not described / 62 % of the training forward / two residual blocks at half the
      bottleneck's channels, a quarter of them at each finer level, at least 8; no norm, which would undo AdaIN.
    * region maps: absent from Eq. 9 / supervised with weight 1 / supervised with weight 1 (``region_weight``) at every
      level, weights 2^-level: nnU-Net's deep supervision would leave the two deepest maps, which the fusion uses, with
      no loss at all. Overlapping regions (sigmoid) get one more map, 1 - their maximum, for the background.
    * L_seg off in the first 20 of 500 epochs: no / yes / no (``warm_up_epochs``). KL on AdaIN's mu, sigma: no / 0.1 /
      no (``kl_weight``).
    * an incomplete case: not treated / not treated / L_reg is the mean over the modalities it has (a slot of an absent
      one repeats another, drawn at random), the other terms leave its absent ones out.

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
