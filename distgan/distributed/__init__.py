"""Ranks: how they start, meet, share a batch and agree."""
