"""Settings as data: fragments that are merged into a dataset's nnU-Net plan."""
