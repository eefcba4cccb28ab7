"""GAN training as a systems problem: two networks, one process or many. Imports nothing heavy."""

__version__ = "0.1.0"
