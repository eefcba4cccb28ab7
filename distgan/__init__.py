"""Train GANs on one process or many. The command `distgan` and `distgan.noise` are the interface; imports no torch."""

__version__ = "0.1.0"
