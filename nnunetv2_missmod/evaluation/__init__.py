"""`missmod evaluate`: the scores of every subset of the modalities, their summaries and tests."""
