"""Dedicated U-Net: nnU-Net of one subset of the modalities, the bound that a model of every subset is measured by.

Idea: nnU-Net's own network and training, of which nothing but the images of one subset is seen. For a hospital whose
scanner never gives another sequence it is the plainest model there is; of four modalities there would be fifteen.

Paper: none; papers on missing modalities print such models as "dedicated", the row that one model for all must reach.
As a dataset with fewer channels stock nnU-Net trains the same, but for its crops, which follow all the channels there.

At a glance

    ==========  ===========================
    genre       dedicated
    shared      nothing
    missing     not served
    losses      segmentation
    step        1.06
    15 subsets  0.9
    paper       Isensee et al., Nature Methods 2021
    ==========  ===========================

Deviations: none from nnU-Net. A case that lacks a modality of the subset teaches nothing and is not validated with.

Settings (symbol in the paper / paper / released code / default)

    ========== ======== ====== ======== =======
    setting    symbol   paper  released default
    ========== ======== ====== ======== =======
    ``subset`` -        -      -        None
    ========== ======== ====== ======== =======
    The network's constant: channels, which the trainer finds by the names that the plan has for it
    (``missmod plan --subset``).

Can I use?

    =========================== ===================================================================
    2D, 3D                      yes
    plain, residual encoder     yes
    any number of modalities    yes
    any subset in one model     no: a training and a model for each subset
    labels, regions, ignore     yes
    cascade                     no: a previous stage is not looked at
    DDP, AMP, torch.compile     yes
    incomplete training cases   yes: those without the subset teach nothing
    batch size 1                yes
    stock nnU-Net weights       by -pretrained_weights, where the subset is all: the same network
    =========================== ===================================================================
"""
