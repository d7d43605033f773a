"""RobustSeg: feature disentanglement and gated fusion (Chen et al., MICCAI 2019).

Idea: each modality's image is split into content maps, whose meaning all modalities share, and a short appearance code
of its own. Gates, one per modality and voxel, fuse the content of whatever is there at every level. The fused content
segments and, with a modality's own code, must rebuild that modality's image.

Paper: Chen et al., "Robust Multimodal Brain Tumor Segmentation via Feature Disentanglement and Gated Fusion", MICCAI
2019. Of its text the abstract alone could be read: no equation, no weight and no table. What is followed is the
released code.

At a glance

    ==========  =======================================================
    genre       catch-all
    shared      gates' fusion and decoder
    missing     zero maps, behind a gate each
    losses      segmentation; reconstruction; KL of the appearance code
    step        1.32
    15 subsets  6.6
    paper       Chen et al., MICCAI 2019
    ==========  =======================================================

Deviations (paper / released code / here)

* segmentation loss: not read / weighted CE + squared Dice / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoder: not read / 4 levels, 16-128 / the plan's topology with F_l / sqrt(M) features.
* gates: not read / sigmoids behind a norm, which only the nonlinearity was switched off before: each gate's mean over
  the volume is a learned number, whichever modalities are present / the same; ``gate_norm = false`` leaves it out,
  which a bottleneck of few voxels may want.
* appearance encoders: not read / 7^3 at full size, four of 4^3 with stride 2, no norm / three of stride 2, no norm
  (those of DC-Seg).
* image decoders: not read / four residual blocks with AdaIN, convolutions of 5^3 and 7^3, the last shared by all
  four, a slip / DC-Seg's, a few percent of the multiplications.
* AdaIN: not read / the function is called with mu and sigma exchanged, so that mu scales and sigma shifts; the KL then
  pulls the content's scale to 0 / sigma scales and is positive (softplus), mu shifts: the KL pulls to plain instance
  normalisation. Variances have an eps of 1e-5.
* L1 of the rebuilt images: not read / all modalities, those that were dropped too, from the others' content and their
  own code / the same, of the modalities that a case has: M times their mean.
* KL on mu and sigma: not read / a sum over 128 channels and all modalities / 128 times the mean, whatever the plan's
  width, and of a sample M times the mean over what it has.
* L2: not read / 1e-4, but not of gates and fusion / Adam's weight decay of all.
* subsets: not read / for the batch (of 1), each modality with 1/2, one if none: 5/64 for a single one, 4/64 for
  any other subset / for each sample, uniform over those of what the case has.
* schedule: not read / 90,000 updates of batch 1, Adam, 1e-4, poly / the same, with the plan's patch and batch.
* an incomplete case: not treated / not treated / what it lacks is in no fusion and no term.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does; released: no augmentation.

Ablations (the paper's could not be read): ``reconstruction_weight = 0`` with ``kl_weight = 0`` (no disentanglement),
``fusion = "concat"`` (no gates), ``gate_norm = false``.

Settings (symbol in the paper / paper / released code / default), ``-``: says nothing, or could not be read

    ========================= ======== ===== =================== =========
    setting                   symbol   paper released            default
    ========================= ======== ===== =================== =========
    ``reconstruction_weight`` -        -     0.1, summed         0.1
    ``kl_weight``             -        -     0.1, summed         12.8
    ``num_epochs``            -        -     360                 360
    ``initial_lr``            -        -     1e-4                1e-4
    ``weight_decay``          -        -     1e-4                1e-4
    ``optimizer_name``        -        -     Adam                "adam"
    ``code_channels``         -        -     8                   8
    ``fusion``                -        -     gates               "gates"
    ``gate_norm``             -        -     yes                 True
    ========================= ======== ===== =================== =========
    Epochs of nnU-Net's 250 steps; ``code_channels`` and what follows are constants of the network.

Can I use?

    =========================== ================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; with one there is a gate and nothing to fuse
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    =========================== ================================================
"""
