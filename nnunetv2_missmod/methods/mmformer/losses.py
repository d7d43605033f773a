"""mmFormer adds no loss of its own: L_sep is the pipeline's, see ``building_blocks/per_modality.py``."""
