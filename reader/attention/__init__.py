"""Attention scorers: which passages the heads of a model look at."""
