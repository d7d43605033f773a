"""`missmod report`: one HTML page, and tables, of what was scored. Needs neither torch nor nnU-Net."""
