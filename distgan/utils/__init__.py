"""Helpers that know nothing of GANs, one subject a file."""
