"""How public datasets, and folders of one's own, are laid out."""
