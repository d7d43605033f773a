"""The trainer around the methods' one hook, and what belongs to a training."""
