"""Public architectures, written anew as a user's files: each trains, with the notes beside it."""

HEAD = """\
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm
import distgan.noise
"""

SIZED = """
def build_generator(spec, num: int = 8):
    return Generator(spec, num)

def build_discriminator(spec, num: int = 8):
    return Discriminator(spec, num)
"""

# The shape of PyTorch's DCGAN example: BatchNorm in both, initial weights by apply().
DCGAN = (
    """
def init(layer):
    if isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
        nn.init.zeros_(layer.bias)

class Generator(nn.Module):
    def __init__(self, spec, ngf):
        super().__init__()
        self.spec_size = (spec.height, spec.width)
        self.main = nn.Sequential(
            nn.ConvTranspose2d(spec.latent_dim, ngf * 2, 4, 1, 0, bias=False), nn.BatchNorm2d(ngf * 2), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
            nn.ConvTranspose2d(ngf, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
            nn.ConvTranspose2d(ngf, spec.channels, 4, 2, 1, bias=False), nn.Tanh())
        self.apply(init)

    def forward(self, z, labels):
        images = self.main(z[:, :, None, None])
        return F.interpolate(images, self.spec_size)

class Discriminator(nn.Module):
    def __init__(self, spec, ndf):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(spec.channels, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2), nn.LeakyReLU(0.2, True),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(ndf * 2, 1))
        self.apply(init)

    def forward(self, images, labels):
        return self.main(images)
"""
    + SIZED
)

# SNGAN-ResNet: residual blocks, conditional BatchNorm in G, spectral norm and a projection in D.
SNGAN = (
    """
class ConditionalNorm(nn.Module):
    def __init__(self, num, classes):
        super().__init__()
        self.norm = nn.BatchNorm2d(num, affine=False)
        self.gain = nn.Embedding(classes, num)
        self.bias = nn.Embedding(classes, num)
        nn.init.ones_(self.gain.weight)
        nn.init.zeros_(self.bias.weight)

    def forward(self, x, labels):
        return self.norm(x) * self.gain(labels)[:, :, None, None] + self.bias(labels)[:, :, None, None]

class Up(nn.Module):
    def __init__(self, num, classes):
        super().__init__()
        self.norm1, self.norm2 = ConditionalNorm(num, classes), ConditionalNorm(num, classes)
        self.conv1 = nn.Conv2d(num, num, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(num, num, 3, padding=1)

    def forward(self, x, labels):
        h = self.conv1(F.interpolate(F.relu(self.norm1(x, labels)), scale_factor=2))
        return self.conv2(F.relu(self.norm2(h, labels))) + F.interpolate(x, scale_factor=2)

class Generator(nn.Module):
    def __init__(self, spec, num):
        super().__init__()
        classes = max(1, spec.num_classes)
        self.num, self.size = num, (spec.height // 4, spec.width // 4)
        self.stem = nn.Linear(spec.latent_dim, num * self.size[0] * self.size[1])
        self.blocks = nn.ModuleList([Up(num, classes), Up(num, classes)])
        self.last = nn.Conv2d(num, spec.channels, 3, padding=1)

    def forward(self, z, labels):
        labels = torch.zeros_like(z[:, 0], dtype=torch.long) if labels is None else labels
        x = self.stem(z).view(-1, self.num, *self.size)
        for block in self.blocks:
            x = block(x, labels)
        return torch.tanh(self.last(F.relu(x)))

class Down(nn.Module):
    def __init__(self, inputs, num):
        super().__init__()
        self.conv1 = spectral_norm(nn.Conv2d(inputs, num, 3, padding=1))
        self.conv2 = spectral_norm(nn.Conv2d(num, num, 3, padding=1))
        self.skip = spectral_norm(nn.Conv2d(inputs, num, 1))

    def forward(self, x):
        return F.avg_pool2d(self.conv2(F.relu(self.conv1(F.relu(x)))) + self.skip(x), 2)

class Discriminator(nn.Module):
    def __init__(self, spec, num):
        super().__init__()
        self.blocks = nn.Sequential(Down(spec.channels, num), Down(num, num))
        self.last = spectral_norm(nn.Linear(num, 1))
        self.embed = spectral_norm(nn.Embedding(spec.num_classes, num)) if spec.num_classes else None

    def forward(self, images, labels):
        h = F.relu(self.blocks(images)).sum((2, 3))
        out = self.last(h)
        return out if self.embed is None else out + (self.embed(labels) * h).sum(1, keepdim=True)
"""
    + SIZED
)

# SAGAN: attention over places in both.
ATTENTION = """
class Attention(nn.Module):
    def __init__(self, num):
        super().__init__()
        self.query, self.key = (spectral_norm(nn.Conv2d(num, num // 4, 1)) for _ in range(2))
        self.value = spectral_norm(nn.Conv2d(num, num, 1))
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x):
        q, k, v = (f(x).flatten(2) for f in (self.query, self.key, self.value))
        weights = (q.transpose(1, 2) @ k).softmax(-1)
        return x + self.gamma * (v @ weights.transpose(1, 2)).view_as(x)

class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.size = (spec.height // 4, spec.width // 4)
        self.stem = nn.Linear(spec.latent_dim, 16 * self.size[0] * self.size[1])
        self.main = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), Attention(16), nn.Upsample(scale_factor=4),
                                  spectral_norm(nn.Conv2d(16, spec.channels, 3, padding=1)), nn.Tanh())

    def forward(self, z, labels):
        return self.main(self.stem(z).view(-1, 16, *self.size))

def build_generator(spec):
    return Generator(spec)

class Discriminator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.main = nn.Sequential(spectral_norm(nn.Conv2d(spec.channels, 16, 4, 4)), nn.LeakyReLU(0.2), Attention(16),
                                  nn.Dropout2d(0.2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 1))

    def forward(self, images, labels):
        return self.main(images)

def build_discriminator(spec):
    return Discriminator(spec)
"""

# StyleGAN2-like: a mapping, weight modulation, noise per layer; D with the standard deviation of the minibatch.
STYLEGAN2 = """
class Modulated(nn.Module):
    def __init__(self, inputs, outputs, latent, noisy=True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outputs, inputs, 3, 3))
        self.affine = nn.Linear(latent, inputs)
        nn.init.ones_(self.affine.bias)
        self.strength = nn.Parameter(torch.zeros(1)) if noisy else None
        self.noise = NOISE
        self.inputs, self.outputs = inputs, outputs

    def forward(self, x, w):
        num, _, height, width = x.shape
        weight = self.weight * self.affine(w)[:, None, :, None, None]
        weight = weight * (weight.square().sum((2, 3, 4), keepdim=True) + 1e-8).rsqrt()
        x = F.conv2d(x.reshape(1, -1, height, width), weight.flatten(0, 1), padding=1, groups=num)
        x = x.view(num, self.outputs, height, width)
        if self.strength is not None:
            x = x + self.strength * self.noise(x[:, :1])
        return F.leaky_relu(x, 0.2)

class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.mapping = nn.Sequential(nn.Linear(spec.latent_dim, 16), nn.LeakyReLU(0.2), nn.Linear(16, 16))
        self.constant = nn.Parameter(torch.randn(1, 8, spec.height // 4, spec.width // 4))
        self.convs = nn.ModuleList([Modulated(8, 8, 16), Modulated(8, 8, 16)])
        self.to_rgb = nn.Conv2d(8, spec.channels, 1)

    def forward(self, z, labels):
        w = self.mapping(z * (z.square().mean(1, keepdim=True) + 1e-8).rsqrt())
        x = self.constant.expand(len(z), -1, -1, -1)
        for conv in self.convs:
            x = F.interpolate(conv(x, w), scale_factor=2)
        return self.to_rgb(x).tanh()

class MinibatchStd(nn.Module):
    def forward(self, x):
        std = (x.var(0, unbiased=False) + 1e-8).sqrt().mean().view(1, 1, 1, 1)
        return torch.cat([x, std.expand(len(x), 1, *x.shape[2:])], 1)

def build_generator(spec):
    return Generator(spec)

def build_discriminator(spec):
    class Discriminator(nn.Module):
        def __init__(self):
            super().__init__()
            self.main = nn.Sequential(nn.Conv2d(spec.channels, 8, 4, 4), nn.LeakyReLU(0.2), MinibatchStd(),
                                      nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(9, 1))

        def forward(self, images, labels):
            return self.main(images)

    return Discriminator()
"""

MLP = """
class Generator(nn.Module):
    takes_mixtures = True

    def __init__(self, spec):
        super().__init__()
        self.shape, self.classes = (spec.channels, spec.height, spec.width), spec.num_classes
        self.main = nn.Sequential(nn.Linear(spec.latent_dim + spec.num_classes, 16), nn.SELU(), nn.AlphaDropout(0.1),
                                  weight_norm(nn.Linear(16, spec.channels * spec.height * spec.width)), nn.Tanh())

    def forward(self, z, labels):
        if labels is not None:
            hot = labels if labels.ndim == 2 else labels[:, None] == torch.arange(self.classes, device=z.device)
            z = torch.cat([z, hot.to(z.dtype)], 1)
        return self.main(z).view(-1, *self.shape)

def build_generator(spec):
    return Generator(spec)

class Discriminator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        num = spec.channels * spec.height * spec.width
        self.main = nn.Sequential(nn.Flatten(), weight_norm(nn.Linear(num, 16)), nn.ReLU(), nn.Dropout(),
                                  nn.Linear(16, 1))

    def forward(self, images, labels):
        return self.main(images)

def build_discriminator(spec):
    return Discriminator(spec)
"""

GROUP_NORM = """
class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.size = (spec.height // 4, spec.width // 4)
        self.stem = nn.Linear(spec.latent_dim, 16 * self.size[0] * self.size[1])
        self.main = nn.Sequential(nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 16 * spec.channels, 3, padding=1),
                                  nn.PixelShuffle(4), nn.Tanh())

    def forward(self, z, labels):
        return self.main(self.stem(z).view(-1, 16, *self.size))

class Discriminator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.main = nn.Sequential(nn.Conv2d(spec.channels, 16, 4, 4), nn.GroupNorm(4, 16), nn.SiLU(),
                                  nn.InstanceNorm2d(16), nn.Flatten(),
                                  nn.Linear(16 * (spec.height // 4) * (spec.width // 4), 1))

    def forward(self, images, labels):
        return self.main(images)

def build_generator(spec):
    return Generator(spec)

def build_discriminator(spec):
    return Discriminator(spec)
"""

# Rows of an image one after the other.
LSTM = """
class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.shape = (spec.channels, spec.width)
        self.height = spec.height
        self.lstm = nn.LSTM(spec.latent_dim, 16, batch_first=True)
        self.row = nn.Linear(16, spec.channels * spec.width)

    def forward(self, z, labels):
        states, _ = self.lstm(z[:, None].expand(-1, self.height, -1))
        return self.row(states).tanh().view(len(z), self.height, *self.shape).transpose(1, 2)

class Discriminator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.lstm = nn.LSTM(spec.channels * spec.width, 16, batch_first=True)
        self.last = nn.Linear(16, 1)

    def forward(self, images, labels):
        states, _ = self.lstm(images.transpose(1, 2).flatten(2))
        return self.last(states[:, -1])

def build_generator(spec):
    return Generator(spec)

def build_discriminator(spec):
    return Discriminator(spec)
"""

# A counter that sharpens G over the steps, and statistics of D's inputs, in buffers.
BUFFERS = MLP.replace(
    "        self.main = nn.Sequential(nn.Linear(spec.latent_dim + spec.num_classes",
    """\
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("order", torch.arange(spec.width).flip(0), persistent=False)
        self.main = nn.Sequential(nn.Linear(spec.latent_dim + spec.num_classes""",
).replace(
    "        return self.main(z).view(-1, *self.shape)",
    """\
        if self.training:
            self.passes.add_(1)
        return (self.main(z) / (1 + self.passes.clamp(max=10))).view(-1, *self.shape)[..., self.order]""",
)

# Dropout between layers by torch itself, attention, a residual stream; one pair for grey and colour.
TRANSFORMER = """
class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.rows, self.shape = spec.height, (spec.channels, spec.width)
        self.place = nn.Parameter(torch.randn(1, spec.height, 16) * 0.02)
        self.inputs = nn.Linear(spec.latent_dim, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.last = nn.Linear(16, spec.channels * spec.width)

    def forward(self, z, labels):
        x = self.layer(self.inputs(z)[:, None] + self.place)
        return self.last(x).tanh().view(len(z), self.rows, *self.shape).transpose(1, 2)

def build_generator(spec):
    return Generator(spec)
""" + MLP[MLP.index("class Discriminator") :]

TIED = """
class Generator(nn.Module):
    def __init__(self, spec):
        super().__init__()
        self.shape = (spec.channels, spec.height, spec.width)
        self.first = nn.Linear(spec.latent_dim, 16)
        self.middle = nn.ModuleList([nn.Linear(16, 16), nn.Linear(16, 16)])
        self.middle[1].weight = self.middle[0].weight
        self.last = nn.Linear(16, spec.channels * spec.height * spec.width)

    def forward(self, z, labels):
        x = self.first(z).relu()
        for layer in self.middle:
            x = layer(x).relu()
        return self.last(x).tanh().view(-1, *self.shape)

def build_generator(spec):
    return Generator(spec)
""" + MLP[MLP.index("class Discriminator") :]

# Each with the start of its notes.
TRAINS: dict[str, tuple[str, tuple[str, ...]]] = {
    "dcgan": (DCGAN, ("D mixes",)),
    "sngan": (SNGAN, ()),
    "attention": (ATTENTION, ()),
    "stylegan2": (STYLEGAN2.replace("NOISE", "distgan.noise.Normal()"), ("D: an output depends", "D mixes")),
    "stylegan2-torch-noise": (
        STYLEGAN2.replace("NOISE", "torch.randn_like"),
        ("D: an output depends", "D mixes", "generator.convs.0 (Modulated): randn_like ... draws"),
    ),
    "mlp": (MLP, ()),
    "group-norm": (GROUP_NORM, ()),
    "lstm": (LSTM, ()),
    "buffers": (BUFFERS, ()),
    "transformer": (TRANSFORMER, ("generator.layer.self_attn (MultiheadAttention): bernoulli_ ... draws",)),
    "tied": (TIED, ()),
}  # fmt: skip
