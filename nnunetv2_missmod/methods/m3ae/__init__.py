"""M3AE: multimodal masked autoencoder, then fine-tuning with self distillation (Liu et al., AAAI 2023).

Idea: nnU-Net's own network first rebuilds images from few visible blocks of few modalities, and learns at the same time
one substitute image x_sub that stands for whatever is missing. Fine-tuning then segments two random subsets of a case
at a time, whose bottlenecks must agree. Prediction costs what stock nnU-Net's costs: x_sub fills the absent channels.

Paper: Liu et al., "M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing Modalities",
AAAI 2023; code: ccarliu/m3ae.

The stages are two trainers: ``M3AEPretrainTrainer`` (pretraining.py), then ``M3AETrainer`` (trainer.py), which looks
for the checkpoint of the former on the same plan, configuration and fold.

At a glance

    ==========  ================================================================
    genre       pretrained, then catch-all
    shared      the whole network
    missing     a learned substitute image
    losses      rebuilt images; then segmentation of two subsets that must agree
    step        1.12, then 2.14
    15 subsets  14.7
    paper       Liu et al., AAAI 2023
    ==========  ================================================================

Deviations (paper / released code / here)

* network: 3D U-Net / 16-128 channels, GroupNorm, residual blocks / the plan's own; both stages share all weights
  but the heads.
* x_sub: as large as the image, cropped where the patch is / the same in training, misaligned at prediction / as
  large as the patch: nnU-Net's sliding window tells a network nothing of where it is.
* R(x_sub): "a small amount of L2" / norm (not squared) of the whole, each modality less its mean / SCALE = 38
  times the mean square, each modality less its mean: the norm's weight would depend on the patch. The released
  form by ``penalty = "norm"``. At 128^3 x 4 and N(0, 1) the released norm pulls 1448 times as hard as a mean
  square: gamma R is 7.2 against a reconstruction error of 1.15, and x_sub is gone before it can learn; a mean
  square alone leaves it noise for longer than a training lasts. SCALE is their geometric mean: gamma R begins at
  0.19.
* scale of the images: clipped, then [0, 1] / the same / nnU-Net's z-score, of which the reconstruction's error, and
  so gamma's weight against it, is another.
* blocks: 16^3 of 128^3 / the same / the same; a side below 128 has 8 blocks; where these do not divide it, their
  sides differ by a voxel.
* augmentation of stage 1: the target is the clean image / the same / nnU-Net's spatial part alone.
* segmentation loss: L_seg / 0.7 Dice + 0.3 BCE, deep supervision with equal weights / the pipeline's own.
* the two subsets: "different" / drawn independently, 10 % of them equal / different where a case has more than one
  modality; each is distributed as if drawn alone.
* x_sub in stage 2: not said / put in before the augmentation, and augmented with the image / after it.
* consistency: bottlenecks / logits at 1/4 of the resolution, upsampled / bottlenecks; the released form by
  ``consistency_at = "logits"``.
* schedule: 600 and 300 epochs / the same / as many updates: 264 and 263 epochs of nnU-Net.
* without pretraining (Table 3 a): x_sub is zero, as nobody has learned one.
* mean image (Table 3 d): here of training patches, computed before the first epoch of each stage.
* gradients are clipped to a norm of 12 and, in stage 2, images augmented as nnU-Net does; released: no clipping.
* an incomplete case: not treated / not treated / its absent modalities count as dropped and are never a target;
  the number of visible blocks stays the same.

Where pretraining does not help: look first whether reconstruction.png shows anatomy and whether x_sub still is the
noise that it began as: metrics.csv has its rms and its correlation with that noise (``substitute/``).
``substitute_lr`` is small for less than some 10,000 updates.

Settings of ``M3AEPretrainTrainer`` (symbol in the paper / paper / released code / default)

    ================================= ======== =========== =========== =============
    setting                           symbol   paper       released    default
    ================================= ======== =========== =========== =============
    ``visible_fraction``              -        0.125       0.125       0.125
    ``gamma``                         gamma    0.005       0.005       0.005
    ``penalty``                       R        L2          norm        "mean_square"
    ``substitute``                    x_sub    learned     learned     "learned"
    ``substitute_lr``                 -        -           0.005       0.005
    ``num_epochs``                    -        600         600         264
    ``initial_lr``                    -        3e-4        3e-4        3e-4
    ``weight_decay``                  -        -           0           0.0
    ``optimizer_name``                -        Adam        Adam        "adam"
    ``lr_schedule``                   -        ?           cosine      "cosine"
    ``oversample_foreground_percent`` -        -           -           0.0
    ================================= ======== =========== =========== =============

Settings of ``M3AETrainer`` (symbol in the paper / paper / released code / default)

    ================================= ======== =========== =========== =====================
    setting                           symbol   paper       released    default
    ================================= ======== =========== =========== =====================
    ``pretrained``                    -        yes         yes         True
    ``pretraining``                   -        -           -           "M3AEPretrainTrainer"
    ``substitute``                    x_sub    learned     learned     "learned"
    ``consistency_weight``            lambda   0.1         0.1         0.1
    ``consistency_at``                f        bottleneck  1/4 logits  "bottleneck"
    ``num_epochs``                    -        300         300         263
    ``initial_lr``                    -        3e-4        3e-4        3e-4
    ``weight_decay``                  -        -           1e-4        1e-4
    ``optimizer_name``                -        Adam        Adam        "adam"
    ``lr_schedule``                   -        ?           cosine      "cosine"
    ================================= ======== =========== =========== =====================
    ``-``: says nothing; ``?``: not checked. 264 and 263 epochs of nnU-Net are the 600 and 300 of the paper.

Can I use?

    =========================== ======================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes
    labels, regions, ignore     yes; pretraining needs labels for nothing
    cascade                     fine-tuning from scratch (the previous stage is never dropped)
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    -pretrained_weights         yes: a pretraining of the same modalities and patch on any dataset
    prediction                  with M3AETrainer; M3AEPretrainTrainer refuses, it rebuilds images
    =========================== ======================================================================
"""
