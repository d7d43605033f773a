"""Parts that two or more methods use, built from a plan."""
