"""nnU-Net v2 trainers whose networks accept any subset of the input modalities."""

__version__ = "0.2.0"
