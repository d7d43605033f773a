"""Prediction and scoring of every subset of the modalities, and the report on it."""
