"""ShaSpec: shared and specific features (Wang et al., CVPR 2023).

Idea: an encoder that all modalities share, and one of each modality's own. The shared features of a patient's
modalities are pulled together; the specific ones must tell which modality they are of. A missing modality's place is
filled with what the others share.

Paper: Wang et al., "Multi-modal Learning with Missing Modality via Shared-Specific Feature Modelling", CVPR 2023,
arXiv:2307.14126. Of the paper the abstract alone was read: what follows is the authors' released code, and what they
answered there.

At a glance

    ==========  ======================================================================
    genre       catch-all
    shared      one of two encoders; the decoder
    missing     the mean of the others' shared features
    losses      segmentation; shared features alike; specific ones tell their modality
    step        1.91
    15 subsets  6.2
    paper       Wang et al., CVPR 2023
    ==========  ======================================================================

Deviations (paper / released code / here)

* segmentation loss: not read / Dice + BCE, the latter summed over three regions / the pipeline's own (Dice+CE or
  Dice+BCE, deep supervision).
* backbone: not read / a 3D ResNet-50 with ASPP, weight-standardised, logits enlarged / the plan's topology, encoders
  with F_l / sqrt(M) features, the plan's own decoder.
* a missing modality in Z: not read / the shared features of the first modality drawn; the mean of the available ones
  is a line commented out / that mean (``substitute``). Skips have E_shared(0), as released.
* skips: not read / all slots reduced by a convolution of kernel 1 with norm and nonlinearity, added to the decoder's
  map / reduced by a convolution of kernel 1 alone, joined as the plan's decoder does.
* L_shared: not read / the sum over the pairs (0, 1), (1, 2), (2, 3), (3, 0), two pairs of six being commented out /
  M times the mean over all pairs, which has that sum's size and asks for no order; the released pairs by
  ``pairs = "cyclic"``.
* L_domain: not read / on a map in front of the ASPP, whose output is composed / on the mean over space of the specific
  bottleneck, which is composed as well. No norm on such means: at a batch of one it fails (the authors' README).
* what has no image: the paper omits its terms (as a reader states in the authors' issue 4) / zero volumes are compared
  and classified like the others / their terms are left out.
* the terms are taken over what the case has, also of modalities that were not drawn, all being encoded anyway; over
  what was drawn by ``auxiliary_over = "present"``.
* subsets: a size, uniform, for the batch, then a subset of that size (P of the full set is 1 / M) / the same, of what
  the case has. In the first 80,000 of 180,001 updates all modalities are there (``warm_up_fraction``); starting with
  subsets is unstable, say the authors. The released second stage takes the learning rate up again, to 5.9e-3 by its
  longer schedule; here one schedule runs through.
* optimizer: SGD, Nesterov momentum 0.99, no weight decay / nnU-Net's, which is the same but for a weight decay of 3e-5.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does.

Ablations, by plan override

    =========================================== ==============================================================
    shared features are not pulled together     ``alpha = 0``
    specific features are not classified        ``beta = 0``
    zeros for what is missing                   ``substitute = "zero_input"``: E_shared(0)
    a plain composition                         ``composition = "conv"``: conv3 + norm + nonlinearity
    subsets from the start                      ``warm_up_fraction = 0``
    =========================================== ==============================================================

Settings (symbol in the paper / paper / released code / default)

    ===================== ======= ========= =================== ================
    setting               symbol  paper     released            default
    ===================== ======= ========= =================== ================
    ``alpha``             alpha   -         0.1                 0.1
    ``beta``              beta    -         0.02                0.02
    ``pairs``             -       -         cyclic              "all"
    ``auxiliary_over``    -       -         all, zeros too      "available"
    ``warm_up_fraction``  -       -         80,000 of 180,001   0.4444
    ``substitute``        -       -         first drawn         "mean_available"
    ``composition``       -       -         residual            "residual"
    ===================== ======= ========= =================== ================
    ``-``: not read.

Can I use?

    =========================== =====================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; with one, both terms are zero
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    =========================== =====================================================
"""
