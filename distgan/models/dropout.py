"""nn.Dropout, and faster where torch draws its mask one number after another."""

import torch
from torch import Tensor, nn


class Dropout(nn.Dropout):
    """On a CPU the mask comes from 16 random bits an element instead of a Mersenne number each.

    Drawn torch's way it takes a fifth of the seed GAN's step (LOG.md). `p` becomes the next multiple of
    2**-16, which for 0.3 is 0.3 + 3e-6, and the kept elements are scaled by what that leaves.
    """

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  # its name in torch
        if not self.training or self.p == 0 or input.device.type != "cpu" or input.numel() % 4:
            return super().forward(input)
        num_dropped = round(self.p * 2**16)
        # One 64-bit draw makes four elements; the mask lies in memory as its input does.
        bits = torch.empty_like(input, dtype=torch.int16)
        bits.as_strided((bits.numel(),), (1,)).view(torch.int64).random_(-(2**63), None)
        mask = (bits >= num_dropped - 2**15).to(input.dtype).mul_(2**16 / (2**16 - num_dropped))
        return input * mask
