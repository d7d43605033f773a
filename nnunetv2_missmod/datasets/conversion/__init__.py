"""From a layout to an nnU-Net raw dataset."""
