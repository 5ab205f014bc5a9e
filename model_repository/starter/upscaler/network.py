"""The upscaler's networks: a generator that doubles an image's size in one pass, and its discriminator.

The generator predicts what bicubic interpolation misses (residual blocks at low resolution without
batch normalization, Lim et al. 2017, EDSR; sub-pixel convolution, Shi et al. 2016). The discriminator
judges patches (Isola et al. 2017, PatchGAN) beside the bicubic image, with spectral normalization
(Miyato et al. 2018).
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

SCALE = 2


def cubic_weights(offset: float, a: float = -0.5) -> list[float]:
    """Weights of 5 neighbours, at -2 to 2, for a point at ``offset`` (Keys 1981; a = -0.5 as Pillow has it)."""

    def weight(x: float) -> float:
        x = abs(x)
        if x < 1:
            return (a + 2) * x**3 - (a + 3) * x**2 + 1
        return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0

    return [weight(offset - i) for i in range(-2, 3)]


def bicubic_kernel() -> torch.Tensor:
    """(12, 1, 5, 5): for each of 3 channels the four output pixels that lie in an input pixel."""
    rows = torch.tensor([cubic_weights(-0.25), cubic_weights(0.25)])
    return torch.stack([torch.outer(y, x) for y in rows for x in rows]).unsqueeze(1).repeat(3, 1, 1, 1)


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(functional.relu(self.first(x)))


class Generator(nn.Module):
    """RGB (batch, 3, H, W), 0 to 1, to (batch, 3, 2 H, 2 W), about 0 to 1 (not clipped)."""

    def __init__(self, channels: int = 32, blocks: int = 8) -> None:
        super().__init__()
        self.channels, self.blocks = channels, blocks
        self.head = nn.Conv2d(3, channels, 3, padding=1)
        self.body = nn.Sequential(
            *(Block(channels) for _ in range(blocks)), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.tail = nn.Conv2d(channels, 3 * SCALE**2, 3, padding=1)
        self.register_buffer("bicubic_kernel", bicubic_kernel(), persistent=False)
        for block in list(self.body)[:-1]:  # start near the identity
            block.second.weight.data.mul_(0.1)
        self.tail.weight.data.mul_(0.1)

    @property
    def reach(self) -> int:
        """An output pixel depends on input pixels at most so far from it; tiles that overlap so much join unseen."""
        return 3 + 2 * self.blocks

    def bicubic(self, x: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x, (2, 2, 2, 2), mode="replicate")
        return functional.pixel_shuffle(functional.conv2d(padded, self.bicubic_kernel, groups=3), SCALE)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = self.head(x - 0.5)
        return self.bicubic(x) + functional.pixel_shuffle(self.tail(features + self.body(features)), SCALE)


class Pixels(nn.Module):
    """A generator between images as they are kept: (H, W, 3) uint8 RGB to (2 H, 2 W, 3) uint8. This is exported."""

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.generator = generator

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        found = self.generator(image.permute(2, 0, 1).unsqueeze(0).float() / 255)
        return (found.clamp(0, 1) * 255 + 0.5).to(torch.uint8)[0].permute(1, 2, 0)


class Discriminator(nn.Module):
    """Scores (batch, 1, H/4, W/4) of patches of an image (batch, 3, H, W) beside its bicubic image."""

    def __init__(self, channels: int = 24) -> None:
        super().__init__()
        sizes = ((6, channels, 3, 1), (channels, channels * 2, 4, 2), (channels * 2, channels * 4, 4, 2),
                 (channels * 4, channels * 4, 3, 1))  # fmt: skip
        self.layers = nn.ModuleList(spectral_norm(nn.Conv2d(i, o, k, s, padding=1)) for i, o, k, s in sizes)
        self.judge = spectral_norm(nn.Conv2d(channels * 4, 1, 3, padding=1))

    def forward(self, image: torch.Tensor, bicubic: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The scores and each layer's features."""
        x, features = torch.cat([image - 0.5, (image - bicubic) * 4], 1), []
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), 0.2)
            features.append(x)
        return self.judge(x), features


def load(source: Path) -> Generator:
    """The generator of a folder that ``save`` wrote, in float32."""
    config = json.loads((source / "config.json").read_text())
    network = Generator(config["channels"], config["blocks"])
    network.load_state_dict({k: v.float() for k, v in load_file(source / "model.safetensors").items()})
    return network.eval()


def save(network: Generator, folder: Path) -> None:
    """Weights in float16 and what is needed to read them."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.detach().half().contiguous() for k, v in network.state_dict().items()}, folder / "model.safetensors"
    )
    config = {"model_type": "genmesh-upscaler", "scale": SCALE, "channels": network.channels, "blocks": network.blocks}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
