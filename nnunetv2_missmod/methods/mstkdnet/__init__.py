"""MST-KDNet."""
