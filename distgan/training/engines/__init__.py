"""Engines that run the training step eagerly, compiled, or as CUDA graphs."""
