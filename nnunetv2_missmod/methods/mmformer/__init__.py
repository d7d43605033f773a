"""mmFormer: transformers within and across modalities (Zhang et al., MICCAI 2022).

Idea: an encoder for each modality, followed at the bottleneck by a transformer on that modality's own voxels. There the
absent modalities become zero, and a second transformer relates the tokens of all modalities, to a bottleneck that
depends less on which of them were there. One decoder fuses every level; another, which they share, segments from each
modality alone, so that no encoder starves.

Paper: Zhang et al., "mmFormer: Multimodal Medical Transformer for Incomplete Multimodal Learning of Brain Tumor
Segmentation", MICCAI 2022. Of the paper the abstract alone was read: what follows is the authors' released code, which
stands on RFNet's (``methods/rfnet``).

At a glance

    ==========  ===================================================
    genre       catch-all
    shared      transformer across modalities, fusion and decoders
    missing     zero maps and tokens
    losses      segmentation; each modality alone; deep supervision
    step        2.30
    15 subsets  7.7
    paper       Zhang et al., MICCAI 2022
    ==========  ===================================================

Deviations (paper / released code / here)

* **a voxel of the fused bottleneck**: not read / the tokens (B, M * T, E), one modality after the other, are viewed as
  (B, *grid, M * E), which gives a voxel M neighbouring tokens of one modality, and a part of the grid one modality
  alone / the voxel's own tokens, one of each modality, as is meant. There is no setting for the released reshape.
* segmentation loss: not read / cross entropy weighted by 1 - a class's share of the voxels + Dice over the batch / the
  pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoders: not read / 5 levels, 8-128, norm and nonlinearity before the convolution, reflected borders,
  trilinear enlargement / the plan's topology and convolutions with F_l / sqrt(M) features.
* tokens: not read / the 8^3 voxels at 1/16 of the image / those of the plan's bottleneck, which nnU-Net has at 1/32 for
  a patch of 128^3; ``token_level = 4`` ends the network at 1/16.
* position: not read / learned, added again at every layer, for one size of the image / the same, and resized linearly
  to another grid.
* each modality alone, L_sep: not read / sum over the 4 modalities / the same: M times the mean over those that a case
  has (a slot of an absent one repeats another, drawn at random). D_sep reads the maps in front of the transformers,
  which learn from the fused path alone, as released.
  ``separate_modalities = 1`` draws one modality for the batch in each step in place of all, scaled up: the same in
  expectation, a quarter of D_sep's work with four modalities.
* L_dec, the decoder's coarser outputs: not read / four terms of weight 1, one on the fused bottleneck, of probabilities
  enlarged to full size / the plan's deep supervision, whose weights add up to 1 with the full size's; no head on the
  bottleneck.
* the fusion's width: not read / takes the number of modalities for that of classes, which serves 4 of each / M.
* absent modalities in the attention: not read / zero tokens, to which their position is added and which the others see
  / the same; ``mask_absent_tokens`` takes them out.
* subsets: not read / each case's own, uniform over the 15 / the same, of what the case has. L_sep sees every available
  modality.
* the length of a training: not read / 1000 epochs of 25 updates at batch 8 on 4 GPUs (100 of nnU-Net's), of 199 at
  batch 1 (796) / 250 of nnU-Net's, chosen.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does; what the released code does was not read.
* prediction: the released code empties an enhancing tumour of fewer than 500 voxels, so that its Dice of ET is not to
  be compared with one from here, where nothing is removed.

Ablations, by plan override

    =========================================== =============================================================
    no transformer within modalities            ``intra_layers = 0``: the projected voxels are the tokens
    no transformer across modalities            ``inter_layers = 0``: the tokens are joined by a convolution
    no modality has to segment alone            ``separate_weight = 0``
    no loss on the decoder's coarser outputs    ``enable_deep_supervision = false``, nnU-Net's own setting
    absent modalities are not seen at all       ``mask_absent_tokens = true`` (not the authors')
    =========================================== =============================================================

Settings (symbol in the paper / paper / released code / default)

    ======================= ========= ============== ============== ===========
    setting                 symbol    paper          released       default
    ======================= ========= ============== ============== ===========
    ``separate_weight``     -         -              1              1.0
    ``num_epochs``          -         -              1000           250
    ``initial_lr``          -         -              2e-4           2e-4
    ``weight_decay``        -         -              1e-4           1e-4
    ``optimizer_name``      -         -              Adam           "adam"
    ``amsgrad``             -         -              yes            True
    ``embed_dim``           -         -              512            512
    ``num_heads``           -         -              8              8
    ``feedforward_dim``     -         -              4096           4096
    ``intra_layers``        -         -              1              1
    ``inter_layers``        -         -              1              1
    ``dropout``             -         -              0.1            0.1
    ``token_level``         -         -              4, the last    -1
    ``share_intra``         -         -              no             False
    ``mask_absent_tokens``  -         -              no             False
    ======================= ========= ============== ============== ===========
    ``-``: not read. ``embed_dim`` and what follows are constants of the network. ``token_level = -1`` is the plan's
    bottleneck.

Can I use?

    =========================== ===================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes, each with a transformer of 5.3 million weights of its own (47
                                million with eight), or all with one: ``share_intra``; with one
                                modality L_sep repeats L_fuse
    images of another size      yes: the position embeddings are resized
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    =========================== ===================================================================
"""
