"""What the trainers cost, as ratios to stock nnU-Net on the same plan in one run."""
