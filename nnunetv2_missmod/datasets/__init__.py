"""Data sets as nnU-Net raw data: conversions of public layouts, and a synthetic phantom."""
