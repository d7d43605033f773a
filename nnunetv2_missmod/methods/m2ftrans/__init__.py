"""M2FTrans: fusion tokens that attend to the modalities present (Shi et al., IEEE JBHI 2024).

Idea: an encoder for each modality. At the bottleneck learned fusion tokens collect, by masked self-attention, what the
present modalities hold; absent ones are masked, not filled with zeros. The attention that the fusion tokens pay to a
modality is a map of how much it counts where, by which its features are weighed at every level. Cross-attention between
channels then balances the modalities on the two coarsest levels. Every modality alone must segment too.

Paper: Shi, Yu, Cheng, Yang, Cheng, Yan, "M2FTrans: Modality-Masked Fusion Transformer for Incomplete Multi-Modality
Brain Tumor Segmentation", IEEE Journal of Biomedical and Health Informatics 28(1), 2024. Of the paper the abstract
alone was read: what follows is the authors' released code. It has two versions, on the frames of RFNet and of SMU-Net,
which differ in width and patch.

At a glance

    ==========  ==============================================
    genre       catch-all
    shared      fusion tokens, cross-attention and decoder
    missing     masked in the attention; zero maps
    losses      segmentation; each modality alone; region maps
    step        2.42
    15 subsets  8.9
    paper       Shi et al., JBHI 2024
    ==========  ==============================================

Deviations (paper / released code / here)

* segmentation loss: not read / cross entropy weighted by 1 - a class's share of the voxels + Dice over the batch,
  background included / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoders: not read / 5 levels, 8-128 or 16-256, residual, reflected borders, trilinear enlargement / the
  plan's topology and convolutions with F_l / sqrt(M) features.
* attention: not read / one mask over the tokens of all modalities and the fusion tokens / what that mask leaves: each
  modality's tokens among themselves, then the fusion tokens over all that are present. It is the same, for less than
  half of the products with four modalities, and what it gives of a modality serves every subset.
* weight maps: not read / the first layer's attention after dropout, detached, summed over heads and fusion tokens / the
  same before dropout, so that training draws nothing in them. With uniform attention a weight is heads / (number
  present + 1), on any grid. Nearest neighbours enlarge a map to each level's size, whatever the strides.
* an absent modality: not read / masked in attention, weighed by zero / the same, and its features become zeros,
  since 0 times NaN is not 0.
* tokens of another grid than the plan's: not treated / not treated / position embeddings and fusion tokens are resized
  linearly.
* cross-attention's convolutions: not read / 3^3 / of the plan's kernel on their level.
* region maps' loss L_prm: not read / sum over 5 levels of the loss of probabilities, enlarged to full size / 5 times
  (``region_weight``) the mean over levels of the loss of logits at their own size, levels weighing 2^-level; so it does
  not grow with a plan's depth. The maps weigh nothing: they are heads of training alone.
* each modality alone, L_sep: not read / sum over the 4 modalities / the same: M times the mean over those that a case
  has (a slot of an absent one repeats another, drawn at random).
  ``separate_modalities = 1`` draws one for the batch in each step in place of all, scaled up: the same in expectation,
  a quarter of D_sep's work with four modalities.
* a first phase without L_fuse and L_prm: not read / an option that is off / none.
* subsets: for the batch, says the author (issue #12) / each case's own, uniform over the 15 (first version, now), or
  the batch's (second version) / each case's own, of what it has; ``one_subset_per_batch`` draws for the batch, where
  cases that have the same modalities get the same subset.
* schedule: batch 2 / 4 on two GPUs, 80^3, 1000 epochs of 150 steps (first version); 2, 128^3, 1000 epochs of 114 steps
  (second) / as many updates as the first version's.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does.
* prediction: the paper's Dice of the enhancing tumour is of post-processed masks, says the author (issue #12), its
  table of BraTS 2018 of one split, and a rerun on BraTS 2020 differed (issue #8): its numbers are not to be compared
  with numbers from here, where nothing is removed.

Ablations, by plan override; the paper's own table was not read

    =========================================== ===========================================
    modalities are not weighed by attention     ``spatial_weights = false``
    no cross-attention, convolutions instead    ``cross_levels = 0``
    absent tokens are zeros that are seen       ``masked = false``
    no modality has to segment alone            ``separate_weight = 0``
    no region maps                              ``region_weight = 0``
    =========================================== ===========================================

Settings (symbol in the paper / paper / released code / default)

    ======================== ========= ============== ============== ===========
    setting                  symbol    paper          released       default
    ======================== ========= ============== ============== ===========
    ``separate_weight``      -         -              1              1.0
    ``region_weight``        -         -              1, summed      5.0
    ``one_subset_per_batch`` -         yes            no / yes       False
    ``num_epochs``           -         -              1000           600
    ``initial_lr``           -         -              2e-4           2e-4
    ``weight_decay``         -         -              1e-4           1e-4
    ``optimizer_name``       -         -              AdamW          "adamw"
    ``amsgrad``              -         -              yes            True
    ``num_layers``           -         -              3              3
    ``num_heads``            -         -              8              8
    ``feedforward_dim``      -         -              4096           4096
    ``dropout``              -         -              0.1            0.1
    ``cross_levels``         -         -              2              2
    ``spatial_weights``      -         -              yes            True
    ``masked``               -         yes            yes            True
    ======================== ========= ============== ============== ===========
    ``-``: not read. "no / yes": its first and its second version. 600 epochs of nnU-Net are the 150,000 updates of the
    first version's run. ``num_layers`` and what follows are constants of the network.

Can I use?

    =========================== =====================================================================
    2D, 3D                      yes, any patch that a plan gives, images of other sizes
    plain, residual encoder     yes
    any number of modalities    yes; with one, L_sep repeats L_fuse
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    few levels                  yes; cross-attention on the two coarsest, or on as many as there are
    =========================== =====================================================================
"""
