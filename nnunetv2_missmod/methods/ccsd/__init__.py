"""CCSD: cross-modal compositional self-distillation (Xie et al., Knowledge-Based Systems 2026).

Idea: one encoder shared by all modalities and one of each modality's own let a single decoder segment every subset from
one encoding. What is segmented from all modalities teaches what is segmented from subsets (HMSD). Along a path that
removes the most critical modality first, the features before each removal teach those after it (DMCD).

Paper: Xie et al., "CCSD: Cross-Modal Compositional Self-Distillation for Robust Brain Tumor Segmentation with Missing
Modalities", Knowledge-Based Systems 2026, arXiv:2511.14599. Backbone: Wang et al., "Multi-modal Learning with Missing
Modality via Shared-Specific Feature Modelling" (ShaSpec), CVPR 2023. No code of CCSD is public.

At a glance

    ==========  ===============================================================================
    genre       catch-all
    shared      one of two encoders; the decoder
    missing     the shared encoder's features of zeros
    losses      segmentation; the full set teaches its subsets (HMSD), removals the next (DMCD)
    step        4.43
    15 subsets  5.4
    paper       Xie et al., KBS 2026
    ==========  ===============================================================================

Deviations (paper / here)

* optimizer: Adam 1e-2, cosine, 100 epochs at batch 12, some 1,700 updates, implausibly few (ShaSpec's released run
  takes 180,001) / nnU-Net's own optimizer and schedule.
* encoders: ShaSpec's / the plan's topology with F_l / sqrt(M) features; the decoder is the plan's.
* composition: conv3 + norm + nonlinearity on [f_shared, f_spec] (3.1) / the same; ShaSpec's, the shared features
  plus a weight-standardised convolution, by ``composition = "residual"``. That one has no norm: DMCD, whose softmax
  depends on the features' scale, starts some 40 times higher.
* a missing modality: zero input (3.2) / its slot holds E_shared(0); ShaSpec's mean of the available modalities'
  shared features by ``substitute = "mean_available"``, in Z alone: skips always have E_shared(0).
* skips: not described / E_shared's maps of all slots, reduced by convolutions of kernel 1, as is Z.
* L_seg: on a sampled subset / its size uniform, for the batch at once, then uniform among that size (ShaSpec's P of
  the full set, 1 / M). The full set's in addition by ``full_set_weight``.
* HMSD: all C(M, k) subsets, k uniform / the same up to 6 of them, beyond 6 drawn uniformly, the same in
  expectation. k is the size of the segmented subset, which so is a student itself and decoded once for both terms.
  ``max_students = 1`` decodes 1.25 subsets of a step with gradient in place of 4.9, where M = 4; the mean over fewer
  students is the same in expectation and noisier.
  Overlapping regions: not treated / a Bernoulli distribution for each.
* tau: not given / 4 for HMSD, 1 for DMCD. For HMSD lower ones help single modalities and cost the full set, and so
  does ``hmsd_weight = 16``, tau^2, which makes up for the gradient of a softened distribution; with SGD that must wait
  until the network has found something (``warm_up_fraction``; docs/does_it_help.md).
* DMCD: softmax unspecified / over the M * C channels of a voxel (over space within a channel, the modalities that
  remain would get no gradient). So read it cannot teach what the paper claims: E_shared(0) is a constant of the
  student, and what remains learns one number per voxel, whatever the removed modality showed. In short trainings CCSD
  was better without it. ``dmcd_over = "decoder_input"`` compares what the decoder gets, ``"each_slot"`` each slot by
  itself, of use with ``substitute = "mean_available"`` alone; that pair cost nothing and helped the larger subsets,
  none helped single modalities (docs/does_it_help.md). With two modalities left the scores of Eq. 4 tie: those of the
  full set decide.
* order of removal: given by the scores / the same, but the log gives it only where the modalities' mean scores lie
  further apart than chance alone would have it (``criticality/spread`` beyond twice ``criticality/noise``, both in
  metrics.csv); while cosines are near zero they do not.
* warm-up: not mentioned / no distillation in the first 5 % of the epochs (ShaSpec's author: starting with subsets
  is unstable); subsets are drawn from the start.
* an incomplete case: not treated / its teacher and the start of its path are what it has. One of a single modality
  skips distillation and keeps its share of the batch's mean, so that the others' weight does not change.
* gradients are clipped to norm 12 and images augmented as nnU-Net does.

Known oddities of the paper: its Table 6, "Random", repeats Table 3 without HMSD and DMCD; its gain over its own ShaSpec
row is 1.0 point of mean Dice.

Ablations and variants, by plan override

    =========================================== ==================================================================
    Table 3, without HMSD or without DMCD       ``hmsd_weight = 0``, ``dmcd_weight = 0``
    Table 4, features that DMCD distils         ``dmcd_features = "shared"``, ``"specific"`` (default ``"fused"``);
                                                absent slots hold E_shared(0) for shared, E_spec^m(0) for specific ones
    Table 5, order of the path                  ``path_order = "random"``, ``"min"`` (default ``"max"``)
    Table 6, criticality                        ``criticality = "gradient"`` (Eq. 9; default ``"cosine"``)
    =========================================== ==================================================================

Settings (symbol in the paper / paper / released code / default)

    ===================== ======= ============================ ========= ============
    setting               symbol  paper                        released  default
    ===================== ======= ============================ ========= ============
    ``hmsd_weight``       -       1                            -         1.0
    ``dmcd_weight``       -       1                            -         1.0
    ``hmsd_tau``          tau     -                            -         4.0
    ``dmcd_tau``          tau     -                            -         1.0
    ``full_set_weight``   -       -                            -         0.0
    ``max_students``      -       all of a size                -         6
    ``dmcd_over``         -       -                            -         "slots"
    ``dmcd_features``     -       fused                        -         "fused"
    ``path_order``        -       most critical first          -         "max"
    ``criticality``       s_j     cosine                       -         "cosine"
    ``warm_up_fraction``  -       -                            -         0.05
    ``substitute``        -       zero input                   -         "zero_input"
    ``composition``       -       conv3 + norm + nonlinearity  -         "conv"
    ``kept_passes``       -       -                            -         4
    ===================== ======= ============================ ========= ============

Can I use?

    =========================== ================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; with one there is nothing to distil
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP                    yes
    torch.compile               yes, one graph per number of subsets in a step; not with Eq. 9
    incomplete training cases   yes
    batch size 1                yes
    =========================== ================================================================
"""
