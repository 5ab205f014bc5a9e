"""Train the starter upscaler: a generator that doubles an image's size, and the discriminator it must pass.

First the mean absolute error alone (45 % of the time), then adversarially: a relativistic average
discriminator (Jolicoeur-Martineau 2018, as in ESRGAN, Wang et al. 2018) tells drawn pictures from
enlarged ones while the generator learns from it, from matching its features (Wang et al. 2018,
pix2pixHD), and from the mean absolute error of pixels and their differences. What is kept lies between
the two parts' generators (network interpolation, ESRGAN 3.4): as sharp without inventing much.

    python train.py --out weights --minutes 30 --threads 1

Prints losses, and at the end of each part the PSNR, sharpness and perceptual distance on held-out
pictures beside bicubic's.
"""

from __future__ import annotations

import argparse
import copy
import time
from pathlib import Path

import data
import metrics
import numpy as np
import torch
from network import Discriminator, Generator, load, save
from torch.nn import functional

BATCH, SIDE, ADVERSARIAL_SIDE = 8, 96, 64  # crops a step, pixels a side of the large ones in the two parts
# Weights of the losses beside the mean absolute error, in the second part.
EDGES, FEATURES, ADVERSARIAL = 0.5, 0.1, 0.015
BLEND = 0.5  # of the way from the first part's weights to the second's


def tensor(pixels: np.ndarray) -> torch.Tensor:
    """(batch, H, W, 3) uint8 to (batch, 3, H, W) float32, 0 to 1."""
    found = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2).float() / 255
    return found.contiguous(memory_format=torch.channels_last)


def enlarge(network: Generator, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (2 H, 2 W, 3) uint8."""
    with torch.inference_mode():
        found = network(tensor(pixels[None]))[0].clamp(0, 1) * 255
    return found.round().to(torch.uint8).permute(1, 2, 0).contiguous().numpy()


def differences(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x[..., 1:, :] - x[..., :-1, :], x[..., 1:] - x[..., :-1]


def edge_loss(image: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of neighbours' differences."""
    pairs = zip(differences(image), differences(truth), strict=True)
    return torch.stack([functional.l1_loss(a, b) for a, b in pairs]).mean()


def relativistic(winner: torch.Tensor, loser: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of scoring ``winner`` above the mean ``loser`` and the other way round."""
    return (functional.softplus(loser.mean() - winner).mean() + functional.softplus(loser - winner.mean()).mean()) / 2


class Average:
    """The exponential moving average of a network's weights, which is what is measured and kept."""

    def __init__(self, network: Generator, decay: float) -> None:
        self.network = Generator(network.channels, network.blocks).to(memory_format=torch.channels_last).eval()
        self.network.load_state_dict(network.state_dict())
        self.decay, self.steps = decay, 0

    def update(self, network: Generator) -> None:
        self.steps += 1
        share = 1 - min(self.decay, self.steps / (self.steps + 10))
        with torch.no_grad():
            for mean, now in zip(self.network.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, share)


def measure(network: Generator, part: str, count: int = 24) -> None:
    """Print figures on held-out pictures of 96 pixels a side, halved bicubically."""
    rows = []
    for truth, _ in data.held_out(count, side=96):
        small = data.reduce(truth)
        rows.append(
            [
                f(image, truth)
                for image in (enlarge(network, small), data.bicubic(small))
                for f in (metrics.psnr, metrics.sharpness, metrics.perceptual)
            ]
        )
    a, b, c, d, e, f = np.mean(rows, axis=0)
    print(
        f"held-out after {part}: PSNR {a:.2f} dB (bicubic {d:.2f}), sharpness {b:.3f} (bicubic {e:.3f}), "
        f"perceptual {c:.4f} (bicubic {f:.4f})",
        flush=True,
    )


def train_content(network: Generator, pool: data.Pool, minutes: float) -> Generator:
    """By the mean absolute error alone; the averaged generator."""
    optimizer, average = torch.optim.Adam(network.parameters(), lr=1e-3), Average(network, 0.995)
    begun, step, losses = time.monotonic(), 0, []
    while (progress := (time.monotonic() - begun) / 60 / minutes) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1.02 - progress)
        small, large = (tensor(part) for part in pool.batch(BATCH, SIDE))
        loss = functional.l1_loss(network(small), large)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        average.update(network)
        step += 1
        losses.append(loss.item())
        if step % 10 == 0:
            print(f"content {progress:6.1%} step {step} l1 {np.mean(losses[-10:]):.5f}", flush=True)
    return average.network


def train_adversarial(network: Generator, pool: data.Pool, minutes: float, out: Path) -> Generator:
    """Generator and discriminator in turn; the averaged generator."""
    judge = Discriminator().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-4, betas=(0.9, 0.99))
    judging = torch.optim.Adam(judge.parameters(), lr=3e-4, betas=(0.5, 0.99))
    average = Average(network, 0.995)
    begun, step, saved, losses = time.monotonic(), 0, time.monotonic(), []
    while (progress := (time.monotonic() - begun) / 60 / minutes) < 1:
        optimizer.param_groups[0]["lr"] = 2e-4 * min(1, (step + 1) / 50) * (1.05 - progress)
        judging.param_groups[0]["lr"] = 3e-4 * (1.05 - progress)
        small, large = (tensor(part) for part in pool.batch(BATCH, ADVERSARIAL_SIDE))
        with torch.no_grad():
            bicubic = network.bicubic(small)
        made = network(small)

        judge.requires_grad_(False)
        scores, features = judge(made, bicubic)
        with torch.no_grad():
            true_scores, true_features = judge(large, bicubic)
        content, edges = functional.l1_loss(made, large), edge_loss(made, large)
        matching = torch.stack([functional.l1_loss(a, b) for a, b in zip(features, true_features, strict=True)]).mean()
        fooling = relativistic(scores, true_scores)
        # The two parts' gradients at the image, so that their balance is seen: ``pull`` is the second over the first.
        faithful = torch.autograd.grad(content + EDGES * edges, made, retain_graph=True)[0]
        lively = torch.autograd.grad(FEATURES * matching + ADVERSARIAL * fooling, made)[0]
        pull = lively.norm() / faithful.norm()
        optimizer.zero_grad()
        made.backward(faithful + min(1, step / 100) * lively)
        torch.nn.utils.clip_grad_norm_(network.parameters(), 0.5)
        optimizer.step()
        average.update(network)

        judge.requires_grad_(True)
        judging_loss = relativistic(judge(large, bicubic)[0], judge(made.detach(), bicubic)[0])
        judging.zero_grad()
        judging_loss.backward()
        judging.step()

        step += 1
        losses.append([part.item() for part in (content, edges, matching, fooling, judging_loss, pull)])
        if step % 10 == 0:
            means = np.mean(losses[-10:], axis=0)
            print(
                f"adversarial {progress:6.1%} step {step} l1 {means[0]:.5f} edges {means[1]:.5f} "
                f"features {means[2]:.4f} generator {means[3]:.3f} discriminator {means[4]:.3f} pull {means[5]:.2f}",
                flush=True,
            )
        if time.monotonic() - saved > 150:
            save(average.network, out)
            measure(average.network, f"{progress:.0%} of the adversarial part", 16)
            saved = time.monotonic()
    return average.network


def between(first: Generator, second: Generator, share: float) -> Generator:
    """The generator whose weights lie ``share`` of the way from ``first`` to ``second``."""
    found = Generator(first.channels, first.blocks).to(memory_format=torch.channels_last).eval()
    with torch.no_grad():
        for p, a, b in zip(found.parameters(), first.parameters(), second.parameters(), strict=True):
            p.copy_(torch.lerp(a, b, share))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from a trained folder, adversarially only")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    begun = time.monotonic()
    network = load(args.start).train() if args.start else Generator()
    network = network.to(memory_format=torch.channels_last)
    sizes = [sum(p.numel() for p in n.parameters()) for n in (network, Discriminator())]
    print(f"generator {sizes[0]:,}, discriminator {sizes[1]:,} parameters", flush=True)
    pool = data.Pool(args.seed, 128 if args.minutes > 5 else 24)
    left = args.minutes - (time.monotonic() - begun) / 60
    if not args.start:
        network = train_content(network, pool, left * 0.45)
        save(network, args.out)
        measure(network, "content")
        left *= 0.55
    content = copy.deepcopy(network)
    network = train_adversarial(network.train(), pool, left, args.out)
    measure(network, "the adversarial part")
    network = between(content, network, BLEND)
    save(network, args.out)
    measure(network, "training")


if __name__ == "__main__":
    main()
