"""Eager, compiled, or CUDA graphs: one step behind each."""
