"""What held-out cases teach about the masks of new ones: how good, of the right sequences, helped by which."""
