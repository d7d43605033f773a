"""RFNet: region-aware fusion (Ding et al., ICCV 2021).

Idea: an encoder for each modality. At every level a coarse segmentation divides space into regions, and in each of them
a small net weighs anew what the modalities say, since one modality shows the oedema and another the enhancing tumour.
Every modality alone must segment too, so that no encoder starves.

Paper: Ding, Yu, Yang, "RFNet: Region-aware Fusion Network for Incomplete Multi-modal Brain Tumor Segmentation",
ICCV 2021. Of the paper the abstract alone was read: what follows is the authors' released code.

At a glance

    ==========  =================================================
    genre       catch-all
    shared      fusion and decoders
    missing     zero maps, which every region's weights leave out
    losses      segmentation; each modality alone; region maps
    step        2.62
    15 subsets  8.4
    paper       Ding et al., ICCV 2021
    ==========  =================================================

Deviations (paper / released code / here)

* segmentation loss: not read / cross entropy weighted by 1 - a class's share of the voxels + Dice over the batch,
  background included / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoders: not read / 4 levels, 8-64, reflected borders, no affine norm, slope 0.2 / the plan's topology
  and convolutions with F_l / sqrt(M) features.
* weights of the modalities in a region: not read / sigmoids, whose sum may be above one or nearly zero / the same.
* region maps' loss L_prm: not read / sum over 4 levels of the loss of probabilities, enlarged to full size / 4 times
  (``region_weight``) the mean over levels of the loss of logits at their own size, levels weighing 2^-level; so it does
  not grow with a plan's depth. Overlapping regions (sigmoid) get one more map, 1 - their maximum, for the background.
* each modality alone, L_sep: not read / sum over the 4 modalities / the same: M times the mean over those that a case
  has (a slot of an absent one repeats another, drawn at random).
  ``separate_modalities = 1`` draws one for the batch in each step in place of all, scaled up: the same in expectation,
  a quarter of D_sep's work with four modalities.
* L_fuse is off in the first 20 of 300 epochs, as released: the fusing decoder then learns through the region maps
  alone (``warm_up_fraction``).
* subsets: not read / each case's own, uniform over the 15 / the same, of what the case has. The subset acts in the
  fusion alone; L_sep sees every available modality.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does; released: no clipping, rotation of 10
  degrees, intensity changes of 10 %, flips.
* prediction: the released code empties an enhancing tumour of fewer than 500 voxels, so that its printed Dice of ET is
  not to be compared with one from here, where nothing is removed.

Ablations, by plan override

    =========================================== =============================================================
    no modality has to segment alone            ``separate_weight = 0``
    region maps without supervision             ``region_weight = 0``
    no region-aware weighing                    ``fusion = "concat"``: modalities are concatenated and convolved
    the fusion is trained from the start        ``warm_up_fraction = 0``
    =========================================== =============================================================

Settings (symbol in the paper / paper / released code / default)

    ======================= ========= ============== ============== ===========
    setting                 symbol    paper          released       default
    ======================= ========= ============== ============== ===========
    ``separate_weight``     -         -              1              1.0
    ``region_weight``       -         -              1, summed      4.0
    ``warm_up_fraction``    -         -              20 of 300      0.06667
    ``num_epochs``          -         -              300            180
    ``initial_lr``          -         -              2e-4           2e-4
    ``weight_decay``        -         -              1e-4           1e-4
    ``optimizer_name``      -         -              Adam           "adam"
    ``amsgrad``             -         -              yes            True
    ``fusion``              -         -              regions        "regions"
    ``overlapping_regions`` -         -              no             False
    ======================= ========= ============== ============== ===========
    ``-``: not read. 180 epochs of nnU-Net are the 45,000 updates of the released run on BraTS 2020. ``fusion`` and what
    follows are constants of the network, of which the trainer sets ``overlapping_regions`` by the dataset's labels.

Can I use?

    =========================== ===================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; with one, L_sep repeats L_fuse
    labels, regions, ignore     yes; the fusion's memory grows with the number of labels
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    =========================== ===================================================================
"""
