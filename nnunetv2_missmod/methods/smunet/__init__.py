"""SMU-Net: style matching U-Net (Azad et al., MIDL 2022), a model for one subset of the modalities.

Idea: as in ACN, a model for one subset, S, learns beside a path that sees all modalities. The bottleneck is taken for
two things: its content, the deepest maps, and a style that is mixed from them and from shallower ones. Contents are
matched by a mean square; styles by the correlations of their channels and by a discriminator. The model for S is
deployed, the full path serves training alone. Every subset needs a training of its own.

Paper: Azad et al., "SMU-Net: Style Matching U-Net for Brain Tumor Segmentation with Missing Modalities", MIDL 2022. Its
abstract could be read, its equations and tables could not: "released" is what is followed, which builds on ACN's.

At a glance

    ==========  ========================================================================
    genre       dedicated
    shared      nothing, a model for each subset; the full path sees all of them
    missing     no channel: the model has those of its own subset
    losses      segmentation of both paths; consistency; content; style and an adversary
    step        1.90
    15 subsets  1.1
    paper       Azad et al., MIDL 2022
    ==========  ========================================================================

Deviations (paper / released code / here)

* which subset: any / FLAIR in its example, one model each / the plan's setting ``subset``, by the modalities' names.
  The trainer writes their channels into the plan as the network's constant ``subset``, from which prediction rebuilds
  the model. Channels outside S are never read, not even to find out what is present.
* segmentation loss: not read / squared Dice of each tumour class over the batch, background left out / the pipeline's
  own (Dice+CE or Dice+BCE, deep supervision).
* networks: not read / U-Nets of 4 levels, 16-128 channels, dropout of 0.2 at the bottleneck / two of the plan's U-Nets,
  the model's with a channel for each modality of S. Dropout as the plan has it.
* style: a module that is learned / a 1x1 convolution of the deepest maps and of the two levels above, which strided
  convolutions and a pooling bring to their size / the same of levels that the plan's strides pool; of the one level
  above where a plan has two.
* content: a module for mutual information that suppresses what tells little / the deepest maps as they are, their mean
  square / as released.
* style loss: a matching function that is learned / squared errors of Gram matrices over all samples, 1e-4 times a
  divisor that leaves one axis out: 2e-18 for normal features of its size, which cannot act / mean squared error of
  correlations, each channel with zero mean and unit norm, for each sample; a weight of 1.
* consistency: not read / mean square between probabilities, summed over three classes, times 10, ramped up over 20 of
  250 epochs / their mean over the K outputs, as the pipeline's Dice is one; over the same share of the epochs.
* gradients of what is matched: not read / into both paths / the same; ``detach_teacher`` for the student's alone. The
  adversarial term is the student's.
* discriminator: not read / three convolutions of kernel 4 and a head that fits one patch size / kernel 3 and a pooled
  head, for any size.
* its optimizer: not read / made anew in every step, so that Adam has no moments / one, kept, its rate that of the
  networks; no weight decay.
* the best epoch: - / overwritten by the last in the same file / nnU-Net's checkpoint_final is what is predicted with.
* dropout in validation: - / active, no network is ever put into eval mode / off.
* schedule: not read / Adam 1e-4, batch 1, patch 160 x 192 x 128, poly with 0.9, 250 epochs of 228 cases, 57,000
  updates / as many updates at the plan's patch and batch.
* intensities: not read / minimum and maximum of a volume to 0 and 1 / the plan's. Augmentation is nnU-Net's, and
  gradients are clipped to a norm of 12.
* an incomplete case: not treated / not treated / the full path sees what is there; a case that lacks a modality of S
  is none of the student's: all its terms leave it out, and so do the epochs' scores. A fold in which no case has S is
  refused.

Ablations, by plan override: ``content_weight = 0``, ``style_weight = 0``, ``adversarial_weight = 0``,
``consistency_weight = 0``. The paper's own were not read.

Settings (symbol in the paper / paper / released code / default), ``-``: says nothing, or could not be read

    ====================== ======== ===== ====================== ========
    setting                symbol   paper released               default
    ====================== ======== ===== ====================== ========
    ``teacher_weight``     -        -     0.4                    0.4
    ``student_weight``     -        -     0.6                    0.6
    ``consistency_weight`` -        -     10, of a sum           10.0
    ``ramp_up_fraction``   -        -     20 of 250 epochs       0.08
    ``content_weight``     -        -     0.2                    0.2
    ``style_weight``       -        -     1e-4 of the raw term   1.0
    ``adversarial_weight`` -        -     2e-4                   2e-4
    ``detach_teacher``     -        -     no                     False
    ``num_epochs``         -        -     228                    228
    ``initial_lr``         -        -     1e-4                   1e-4
    ``weight_decay``       -        -     1e-5                   1e-5
    ``optimizer_name``     -        -     Adam                   "adam"
    ``subset``             -        any   FLAIR                  None
    ====================== ======== ===== ====================== ========
    Epochs of nnU-Net's 250 steps. ``subset``: the network's constant, which the trainer finds by the plan's names.

Can I use?

    =========================== ===================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; where S is all of them, both paths are alike
    any subset in one model     no: a training and a model for each subset
    labels, regions, ignore     yes
    cascade                     no: neither path looks at a previous stage
    DDP, AMP, torch.compile     yes (matching in float32)
    incomplete training cases   yes: those without S teach the full path alone
    batch size 1                yes
    stock nnU-Net weights       no
    =========================== ===================================================================
"""
