"""The doors: nnU-Net looks here for trainers. One file per trainer, with nothing but an import in it."""
