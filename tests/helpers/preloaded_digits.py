"""For the forkserver: the embedded digits, made once for all that are forked from it."""

import functools

import torch

from distgan.data import base

torch.set_num_threads(1)  # no thread may be there when a process is forked
base.load_digits = functools.cache(base.load_digits)
base.load_digits()
