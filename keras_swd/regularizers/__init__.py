"""Regularizers: one file per method, one frame for all."""
