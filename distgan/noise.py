"""Random numbers for layers of your own networks, the same on one process and on many, eagerly and in a graph.

`Normal()(like)` gives normals of the shape of `like`, (N, ...), as per-layer noise. torch's dropout is swapped for the
layers here when networks are built.
In training the numbers are a function of seed, step and row of the batch; nothing of them is in a checkpoint, and a
resumed run draws them again. The first dimension has to be the batch.
"""

from distgan.models.layers import AlphaDropout, ChannelDropout, Dropout, Normal

__all__ = ["AlphaDropout", "ChannelDropout", "Dropout", "Normal"]
