"""A dedicated U-Net has no loss term of its own: it trains on the pipeline's segmentation loss alone."""
