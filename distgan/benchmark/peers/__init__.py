"""Baselines of `distgan bench throughput --peers`: plain PyTorch and Accelerate training loops."""
