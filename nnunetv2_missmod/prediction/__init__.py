"""`missmod predict`: a trained model, opened safely, and the masks that it makes of cases that lack modalities."""
