"""Eager, compiled, or CUDA graphs: the same training step behind each."""
