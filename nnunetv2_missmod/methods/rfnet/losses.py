"""RFNet adds no loss of its own: L_sep and L_prm are the pipeline's, see ``building_blocks/region_fusion.py``."""
