"""M2FTrans adds no loss of its own: L_sep and L_prm are the pipeline's, see ``building_blocks/per_modality.py`` and
``region_fusion.py`` beside it.
"""
