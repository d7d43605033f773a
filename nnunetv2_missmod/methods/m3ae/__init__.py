"""M3AE: multimodal masked autoencoder, then fine-tuning with self distillation (Liu et al., AAAI 2023).

Idea: nnU-Net's own network first rebuilds images from few visible blocks of few modalities, and learns at the same time
one substitute image x_sub that stands for whatever is missing. Fine-tuning then segments two random subsets of a case
at a time, whose bottlenecks must agree. Prediction costs what stock nnU-Net's costs: x_sub fills the absent channels.

Paper: Liu et al., "M3AE: Multimodal Representation Learning for Brain Tumor Segmentation with Missing Modalities",
AAAI 2023; code: ccarliu/m3ae.

The stages are two trainers: ``M3AEPretrainTrainer`` (pretraining.py), then ``M3AETrainer`` (trainer.py), which looks
for the checkpoint of the former on the same plan, configuration and fold.

Deviations (paper / released code / here)
    * network: 3D U-Net / 16-128 channels, GroupNorm, residual blocks / the plan's own; both stages share all weights
      but the heads.
    * x_sub: as large as the image, cropped where the patch is / the same in training, misaligned at prediction / as
      large as the patch: nnU-Net's sliding window tells a network nothing of where it is.
    * R(x_sub): L2 / norm (not squared) of the whole, less its mean / mean square, scaled so that at 128^3 x 4 and
      N(0, 1) its gradient is as large as the released norm's: the norm's weight would depend on the patch. The released
      form by ``penalty = "norm"``.
    * blocks: 16^3 of 128^3 / the same / the same; a side below 128 has 8 blocks; where these do not divide it, their
      sides differ by a voxel.
    * augmentation of stage 1: the target is the clean image / the same / nnU-Net's spatial part alone.
    * segmentation loss: L_seg / 0.7 Dice + 0.3 BCE, deep supervision with equal weights / the pipeline's own.
    * consistency: bottlenecks / logits at 1/4 of the resolution, upsampled / bottlenecks; the released form by
      ``consistency_at = "logits"``.
    * schedule: 600 and 300 epochs / the same / as many updates: 264 and 263 epochs of nnU-Net.
    * without pretraining (Table 3 a): x_sub is zero, as nobody has learned one.
    * mean image (Table 3 d): here of training patches, computed before the first epoch of each stage.
    * an incomplete case: not treated / not treated / its absent modalities count as dropped and are never a target;
      the number of visible blocks stays the same.

Where pretraining does not help: look first whether reconstruction.png shows anatomy and whether substitute.png still
shows the noise it began with; ``substitute_lr`` is small for less than some 10,000 updates.

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
