"""Evaluation of reading strategies against long-document question sets."""
