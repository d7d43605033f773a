"""ACN: adversarial co-training network (Wang et al., MICCAI 2021), a model for one subset of the modalities.

Idea: a model that is to see one subset, S, learns from scratch beside a path that sees all modalities. Their
predictions are made consistent; a discriminator each for the entropy of what they answer and for their bottlenecks, and
a bound of the bottlenecks' mutual information, draw what S alone gives to what all modalities give. The model for S is
deployed, the full path serves training alone. Every subset needs a training of its own.

Paper: Wang et al., "ACN: Adversarial Co-training Network for Brain Tumor Segmentation with Missing Modalities", MICCAI
2021. Its abstract could be read, its equations and tables could not: "released" is what is followed.

At a glance

    ==========  ============================================================================
    genre       dedicated
    shared      nothing, a model for each subset; the full path sees all of them
    missing     no channel: the model has those of its own subset
    losses      segmentation of both paths; consistency; mutual information; two adversaries
    step        2.02
    15 subsets  0.9
    paper       Wang et al., MICCAI 2021
    ==========  ============================================================================

Deviations (paper / released code / here)

* which subset: any / T1c in its example, one model each (its authors' answer to a question) / the plan's setting
  ``subset``, by the modalities' names. The trainer writes their channels into the plan as the network's constant
  ``subset``, from which prediction rebuilds the model. Channels outside S are never read, not even to find out what is
  present.
* segmentation loss: not read / squared Dice of each tumour class over the batch, background left out / the pipeline's
  own (Dice+CE or Dice+BCE, deep supervision). The released Dice fails for more than one sample.
* networks: not read / residual U-Nets of 4 levels, 16-128 channels, dropout of 0.2 at the bottleneck / two of the
  plan's U-Nets, the model's with a channel for each modality of S. Dropout as the plan has it.
* an autoencoder's branch: not read / computed, its terms commented out / left out.
* consistency: not read / mean square between probabilities, summed over three classes, times 10, ramped up over 20 of
  300 epochs / their mean over the K outputs, as the pipeline's Dice is one; over the same share of the epochs.
* gradients of the consistency: "supplement each other" / into both paths / the same; ``detach_teacher`` for the
  student's alone.
* mutual information: from the full path's knowledge to the other's / a regressor from the student's bottleneck to the
  student's bottleneck: nothing is transferred, the teacher's gives its shape alone / to the teacher's, which gets no
  gradient. -log N of a regressor of three 1x1 convolutions, one variance per channel, which begins at 5.
* entropy: of the predictions / of a softmax over sigmoids / of a softmax over the logits; where there are regions, of
  each region's two answers.
* discriminators: not read / 5 and 3 convolutions of kernel 4 and 3, maps of verdicts, the first for 32 voxels or more
  / three of kernel 3 and a pooled head, for any size; that of the entropy has the plan's first strides.
* their optimizers: not read / made anew in every step, so that Adam has no moments / one each, kept, its rate that of
  the networks; no weight decay.
* dropout in validation: - / active, the student is never put into eval mode / off.
* the best epoch: - / by the fold that is reported / nnU-Net's checkpoint_best is one as well; checkpoint_final is what
  is predicted with.
* schedule: not read / Adam 1e-4, batch 1, patch 160 x 192 x 128, poly with 0.9, 300 epochs of 190 cases, 57,000
  updates / as many updates at the plan's patch and batch.
* intensities: not read / minimum and maximum of a volume to 0 and 1 / the plan's. Augmentation is nnU-Net's, and
  gradients are clipped to a norm of 12.
* an incomplete case: not treated / not treated / the full path sees what is there; a case that lacks a modality of S
  is none of the student's: all its terms leave it out, and so do the epochs' scores. A fold in which no case has S is
  refused.

Ablations, by plan override: ``consistency_weight = 0``, ``mi_weight = 0``, ``entropy_weight = 0``, ``knowledge_weight =
0``. The paper's own were not read.

Settings (symbol in the paper / paper / released code / default), ``-``: says nothing, or could not be read

    ====================== ======== ===== ================= ========
    setting                symbol   paper released          default
    ====================== ======== ===== ================= ========
    ``teacher_weight``     -        -     0.2               0.2
    ``student_weight``     -        -     0.8               0.8
    ``consistency_weight`` -        -     10, of a sum      10.0
    ``ramp_up_fraction``   -        -     20 of 300 epochs  0.066667
    ``mi_weight``          -        -     0.5               0.5
    ``entropy_weight``     -        -     0.001             0.001
    ``knowledge_weight``   -        -     0.0002            0.0002
    ``detach_teacher``     -        -     no                False
    ``num_epochs``         -        -     228               228
    ``initial_lr``         -        -     1e-4              1e-4
    ``weight_decay``       -        -     1e-5              1e-5
    ``optimizer_name``     -        -     Adam              "adam"
    ``subset``             -        any   T1c               None
    ====================== ======== ===== ================= ========
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
    stock nnU-Net weights       by -pretrained_weights, where S is all modalities: the same network
    =========================== ===================================================================
"""
