"""U-HVED: hetero-modal variational encoder-decoder (Dorent et al., MICCAI 2019), with RA-HVED as settings.

Idea: at every level each modality's encoder gives a Gaussian per voxel. Those of the modalities present, and the prior
N(0, I), are multiplied into one, whatever their number. A draw of it is decoded into the segmentation and into the
images of all modalities. KL terms make the Gaussians of all subsets of a case agree, with each other and the prior.

Paper: Dorent et al., "Hetero-Modal Variational Encoder-Decoder for Joint Modality Completion and Segmentation", MICCAI
2019. Variant RA-HVED: Jeong et al., "Region-of-Interest Attentive Heteromodal Variational Encoder-Decoder for
Segmentation with Missing Modalities", ACCV 2022. The papers' equations beyond Eq. 1 and 4 of the first, their tables
and schedules could not be read: what stands under "paper" is little, and "released" is what is followed.

At a glance

    ==========  ============================================================
    genre       catch-all
    shared      product of Gaussians and decoders
    missing     no factor of the product
    losses      segmentation; KL of subsets and of the prior; reconstruction
    step        1.62
    15 subsets  4.1
    paper       Dorent et al., MICCAI 2019
    ==========  ============================================================

Deviations (paper / released code / here)

* segmentation loss: not read / CE + soft Dice / the pipeline's own (Dice+CE or Dice+BCE, deep supervision).
* encoders and decoders: not read / 4 levels, 8-64, max pooling / the plan's topology with F_l / sqrt(M) features.
* Gaussians: not read / the halves of a level's output, which is linear / a 1x1 convolution on each level, C_l to two
  halves of C_l / 2: nnU-Net's levels end in LeakyReLU, after which no variance would be much below 1.
* product: Eq. 4 / with 1e-7 on variances, log variances within 50 / as released, in float32.
* what is decoded: a draw / a draw at every level, skips too / the same in training; its noise is the trainer's, so
  that a resumed training draws the same.
* prediction: not read / a draw for the segmentation, the mean for the images (RA-HVED: the mean for both) / a draw,
  whose noise is always the same. From means the decoder, trained on draws, finds lesions where there are none.
* KL: not read / a mean over channels, voxels and levels, not an ELBO's sum / as released.
* KL of subsets: not read / all 15, also of what was dropped, the sum divided by 14 for the drawn set's KL to each and
  by 15 for each one's to the prior / a mean over the subsets of what a case has (14/15 of the released one). Of more
  than four modalities: the drawn subset and 14 others, drawn.
* rebuilt images: not read / mean square over all modalities, the dropped ones too / over the available ones.
* image decoders: as wide as the segmentation's / the same / the same; computed twice, to save memory.
* subsets: not read / for the batch (of 1), the size uniform, then a subset of it / the size for the batch, the subset
  for each sample.
* schedule: not read / 60,000 iterations of batch 1, rate 1e-3 divided by 4 every 10 of them, presumably every 10,000 /
  as many updates, Adam, 1e-3, nnU-Net's poly.
* an incomplete case: not treated / not treated / nothing of what it lacks is in a product, a KL term or a target.
* gradients are clipped to a norm of 12 and images augmented as nnU-Net does.

RA-HVED: `plans/RAHVED.json`, merged into a plan, sets

* ``full_set_weight``, ``adversarial_weight``: a second pass sees all that is available. It is segmented as well, and a
  discriminator (patches, least squares) that looks at probabilities and rebuilt images, 1 + p times as bright where a
  voxel is in a region with probability p, learns to tell the passes apart; the first pass must fool it. p is that of
  the innermost region where each region is within the one before it, of the likeliest where they are not, and 1 -
  background where there are classes.
* ``kl_inter_weight = 0``, ``kl_prior_over = "drawn"``: the drawn subset's KL to the prior alone.
* ``subset_sizes = "proper"``: the drawn subset is never all that is available, where that is more than one. The
  released code never draws the last triple, a slip.
* ``roi_attention``: the decoder's maps and the skips are scaled by 1 + a gate per voxel, of 7^3 convolutions on their
  maxima and means over the channels (7 along the axes on which the plan convolves).

and leaves out: latents of C_l / 4 at half the resolution (a stride of 2 does not fit anisotropic plans), Dropout3d.

Ablations: any weight of 0; ``full_set_weight`` and ``roi_attention`` as above. The papers' own were not read.

Settings (symbol in the paper / paper / released code / default), ``-``: says nothing, or could not be read

    ========================= ======== ===== ================================= ==========
    setting                   symbol   paper released                          default
    ========================= ======== ===== ================================= ==========
    ``kl_inter_weight``       -        -     0.1 (RA-HVED: none)               0.1
    ``kl_prior_weight``       -        -     0.1 (RA-HVED: 0.2)                0.1
    ``kl_prior_over``         -        -     subsets (RA-HVED: drawn)          "subsets"
    ``reconstruction_weight`` -        -     0.1 (RA-HVED: 0.2)                0.1
    ``full_set_weight``       -        -     none (RA-HVED: 1)                 0.0
    ``adversarial_weight``    -        -     none (RA-HVED: 0.1)               0.0
    ``subset_sizes``          -        -     1 to 4 (RA-HVED: 1 to 3)          "all"
    ``num_epochs``            -        -     240 (RA-HVED: 287)                240
    ``initial_lr``            -        -     1e-3 (RA-HVED: 1e-4)              1e-3
    ``weight_decay``          -        -     1e-5                              1e-5
    ``optimizer_name``        -        -     not set (RA-HVED: Adam)           "adam"
    ``roi_attention``         -        -     no (RA-HVED: yes)                 False
    ========================= ======== ===== ================================= ==========
    Epochs of nnU-Net's 250 steps. ``roi_attention`` is a constant of the network.

Can I use?

    =========================== ====================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes; with one there is nothing to agree with
    labels, regions, ignore     yes
    cascade                     no: the previous stage belongs to no modality
    DDP, AMP, torch.compile     yes (product and KL in float32)
    incomplete training cases   yes
    batch size 1                yes
    =========================== ====================================================================
"""
