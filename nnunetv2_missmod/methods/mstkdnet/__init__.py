"""MST-KDNet: multi-scale transformer knowledge distillation (Zhu et al., MICCAI 2025).

Idea: a teacher sees all modalities, a student what is there. At several depths of a transformer the student matches the
teacher's attention maps (EVD) and tokens (MST), at the output its logits as they are and standardised (DMLD), and
between encoder, transformer and decoder its style (GSME: cross-Gram matrices, and a discriminator to be fooled).
Teacher, student and discriminator learn from scratch, side by side; the student alone predicts.

Paper: Zhu et al., "Bridging the Gap in Missing Modalities: Leveraging Knowledge Distillation and Style Matching for
Brain Tumor Segmentation", MICCAI 2025.

At a glance

    ==========  ======================================================================================
    genre       catch-all, with a teacher
    shared      the whole network
    missing     a channel of zeros
    losses      segmentation of student and teacher; attention, tokens, logits, style and an adversary
    step        2.49
    15 subsets  16.3
    paper       Zhu et al., MICCAI 2025
    ==========  ======================================================================================

Deviations (paper / released code / here)

* segmentation loss: Dice / squared Dice / the pipeline's own, deep supervision on the decoder's levels.
* backbone: a U-Net of 4 levels / the same / the plan's stages down to 1/8 (or its bottleneck, where that is finer)
  and the plan's decoder from there.
* transformer: not described / K = 768, 12 layers and heads, dropout 0.1 / the same without dropout (exact resume);
  the patch embedding makes the grid of tokens that of the plan's bottleneck.
* back from the tokens: UNETR / UNETR whose deconvolutions end where they began / one channel width, taps added, as
  many deconvolutions as the plan has strides below 1/8. The encoder's map is added at the end: f_t.
* decoder input f_enc&t: the 1x1 convolution of f_enc and f_t / of those, the encoder's map once more, and f_dec /
  of f_enc and f_t; f_dec is the output of one convolution on it.
* EVD: "axis = 1", which reads as heads / over layers / over layers; heads by ``evd_axis = "head"``.
* size of EVD: as it comes / the same / a layer's error by the mean square of its three products, of teacher and
  student together (Eq. 2 to 4 weigh the three alike, and so does one divisor). The share is below 1 for a layer,
  whatever the attention. As it comes it grows with the tokens' third power where attention becomes peaked and
  drowns the others (measured below); ``evd_scale = "tokens"`` has it. Weight not given / 1e8, which at 120 tokens
  and uniform attention is 2.9 of the shares / 3.
* MST: the taps' features, reshaped / maps decoded from them, at several resolutions / the taps' tokens, which the
  paper's text describes; ``mst_of = "maps"`` takes the token decoder's maps (where the plan has few strides below
  1/8, of as few resolutions). "Multi-scale" we read as of several depths.
* content: in no equation / 0.2 of the mean squared error of a map that its Gram pairs show to be f_dec / left out;
  ``content_weight``.
* weights of what distils: not given / beside a Dice loss summed over the outputs / divided by the number of
  outputs, since the pipeline's Dice is their mean. SLKD: not given / a mean over the outputs / the same.
* ramp-up: not mentioned / of the logit MSE over 20 epochs, of 100 or 300 in its configurations / over the first 8 %
  of the epochs, 20 of the paper's 250, of all that distils, since the teacher starts from scratch as well;
  ``ramp_up_of = "mse"`` has it as released.
* logit MSE, Eq. 5: logits / probabilities, weight 10 / as released; ``mse_of = "logits"``.
* logit standardisation, Eq. 6: over classes / over the last spatial axis, with the arguments of KL swapped / over
  classes; ``slkd_axis = "last_spatial"``. Overlapping regions: a Bernoulli distribution for each, and the
  statistics over the voxels, region by region. Over the regions nothing would be left of inside and outside, which
  a softmax does not need and a sigmoid does: whoever calls everything tumor would be right. Two classes
  standardised against each other are always 1 and -1: theirs are over the voxels as well. There the standard
  deviation counts from 0.1 logits on, so that what hardly varies is not blown up. A student whose z-scores are
  exactly the teacher's negatives has the highest loss and next to no gradient.
* Eq. 6 misprints its numerator: 1 - mu in place of l - mu.
* cross-Grams, Eq. 10: products, some 1e-16 / the same, off in the released run / correlations, each channel with
  zero mean and unit norm, so that the loss is of the size of the others.
* adversarial term, Eq. 9: weight not given / 2e-4 / as released. It starts at 1/5000 of the segmentation loss and
  grows: after 120 steps its gradient is 0.15 of that loss's (1.3 with a weight of 2e-3).
* discriminator: kernel 4, a head for one patch size, a new optimizer each step / kernel 3, pooled, 1x1, for any
  size; one Adam, whose learning rate follows the student's, without weight decay.
* Adam's betas: 0.9 and 0.99 / those for the discriminator / those for all three. A training that earlier versions
  began with 0.999 goes on with that.
* gradients are clipped to norm 12 and images augmented as nnU-Net does.
* gradients of the distillation: not mentioned / into the teacher as well / into the student alone
  (``detach_teacher``; measured below).
* subsets: all 15 alike / the same / for each sample, uniform over those of what the case has.
* an incomplete case: not treated / its teacher sees what is available; one of a single modality skips distillation
  (not the adversarial term) and keeps its share of the batch's mean.
* not taken over from the released code: the teacher's background Dice inside two terms of the student, a last epoch
  at rate 0, networks that are never put into eval mode, HD95 = 0 for empty masks.

Gradients on the student as multiples of that of its segmentation loss (hard phantom, 2D, 42 tokens, Adam 1e-3),
measured when each of EVD's products had a divisor of its own and SLKD was a sum over the outputs: with T^4, no division
by the outputs, no ramp-up and a weight of 2e-3 for the adversary, at the first step evd 86, mst 7.4, slkd 5.1, gram
0.8, and after 120 steps evd 2.2, mst 1.4, slkd 0.8, gram 1.5, adversarial 1.3: the labels taught next to nothing, and
once attention peaked (in a run without the logit MSE) evd averaged 420 over an epoch. With shares, evd started at 14,
before the ramp-up, and after 120 steps none was above 0.6. Mean Dice of both ways: docs/does_it_help.md.

``detach_teacher``, measured before these changes on the phantom (``missmod demo``'s settings, 320 steps, 6 test cases,
two runs each), mean Dice over the 15 subsets, whole tumor / tumor core / enhancing tumor

    ============================================ ================================================
    True: the teacher learns from labels alone   0.786 / 0.703 / 0.364, 0.801 / 0.696 / 0.414
    False: from the student's terms as well      0.682 / 0.495 / 0.278, 0.691 / 0.498 / 0.242
    ============================================ ================================================

Ablations of Table 4, by plan override

    ====================== ======================================================
    without MS-TKD         ``evd_weight = 0``, ``mst_weight = 0``
    without GSME           ``gram_weight = 0``, ``adversarial_weight = 0``
    without SLKD           ``slkd_weight = 0``
    ====================== ======================================================

Settings (symbol in the paper / paper / released code / default)

    ======================= ======= ======== ==================== ===============
    setting                 symbol  paper    released             default
    ======================= ======= ======== ==================== ===============
    ``teacher_weight``      -       -        0.4                  0.4
    ``student_weight``      -       -        0.6                  0.6
    ``evd_weight``          -       -        1e8 of the raw term  3.0
    ``evd_axis``            -       heads    layers               "layer"
    ``evd_scale``           -       raw      raw                  "relative"
    ``mst_weight``          -       -        0.2                  0.2
    ``mst_of``              -       tokens   decoded maps         "tokens"
    ``mse_weight``          -       -        10                   10.0
    ``mse_of``              -       logits   probabilities        "probabilities"
    ``ramp_up_fraction``    -       -        20 epochs            0.08
    ``ramp_up_of``          -       -        the MSE              "all"
    ``slkd_weight``         -       -        1                    1.0
    ``slkd_axis``           -       classes  last spatial         "class"
    ``tau``                 tau     -        7                    7.0
    ``content_weight``      -       -        0.2                  0.0
    ``gram_weight``         theta   -        off                  1.0
    ``adversarial_weight``  -       -        2e-4                 2e-4
    ``detach_teacher``      -       -        no                   True
    ``initial_lr``          -       1e-4     1e-4                 1e-4
    ``weight_decay``        -       -        1e-5                 1e-5
    ``optimizer_name``      -       Adam     Adam                 "adam"
    ``adam_beta2``          beta_2  0.99     0.99 for D            0.99
    ``embed_dim``           K       -        768                  768
    ``num_layers``          -       -        12                   12
    ``num_heads``           -       -        12                   12
    ``feedforward_dim``     -       -        2048                 2048
    ======================= ======= ======== ==================== ===============

Can I use?

    =========================== ================================================================
    2D, 3D                      yes, any patch that a plan gives
    plain, residual encoder     yes
    any number of modalities    yes; with one there is nothing to distil
    labels, regions, ignore     yes
    cascade                     yes (the previous stage is never dropped)
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    batch size 1                yes
    stock nnU-Net weights       no; -pretrained_weights of another student: into the student
    =========================== ================================================================
"""
