"""Modality dropout: the baseline, and the folder to copy for a new method.

Idea: nnU-Net's own network sees a random non-empty subset of what each training case has; the channels left out are
zero. One network then serves every subset. Nothing else is added.

Paper: dropping input modalities at random during training is common practice; an early description is Neverova et al.,
"ModDrop: adaptive multi-modal gesture recognition", IEEE TPAMI 2016.

At a glance

    ==========  =====================
    genre       catch-all
    shared      the whole network
    missing     a channel of zeros
    losses      segmentation
    step        1.06
    15 subsets  17.3
    paper       Neverova et al., 2016
    ==========  =====================

Deviations: ModDrop drops each modality independently; here, as in the missing-modality literature, subsets are drawn
uniformly over all non-empty ones. Network, loss, optimizer and schedule are nnU-Net's.

Can I use?

    =========================== =============================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes
    labels, regions, ignore     yes
    cascade                     yes (the previous stage is never dropped)
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes
    stock nnU-Net weights       yes, by -pretrained_weights: the same network
    =========================== =============================================
"""
