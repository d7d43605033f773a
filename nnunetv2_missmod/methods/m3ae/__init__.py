"""M3AE: multimodal masked autoencoder, then fine-tuning with self distillation (Liu et al., AAAI 2023)."""
