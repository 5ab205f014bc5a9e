"""Train the starter diffuser: a small latent diffusion model in the diffusers folder format.

First a KL autoencoder learns 128 x 128 pictures as 16 x 16 x 8 latents, its decoder longer than its encoder. Then a
CLIP-shaped text encoder learns to say from a prompt what it asks; then a U-Net learns, reading its states, to remove
noise from latents (velocity prediction, Salimans & Ho 2022, on a schedule that ends in pure noise, Lin et al. 2024),
with a tenth of the prompts empty for classifier-free guidance (Ho & Salimans 2022).

    python train.py --out weights --minutes 90 --threads 1

Every 10 steps a part prints their mean loss: "autoencoder", "decoder", "text" and "U-Net".
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from data import COLOURS, PLACES, RADII, RELATION_WORDS, SHAPES, SIZE, Asked, Scene, ask, sample, write
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SHARES = {"autoencoder": 0.2, "decoder": 0.08, "text": 0.05, "unet": 0.67}  # of the time
LENGTH = 32  # tokens of a prompt
LATENT = 16  # latent pixels a side
CHANNELS = 8  # of a latent pixel
BATCH = 16  # pictures of a U-Net step
# What a prompt may say: of the first object, of the second, and how they stand; None stands before each.
FACTS: tuple[list[str], ...] = (
    *([list(SHAPES), list(COLOURS), list(RADII), list(PLACES)] * 2),
    [name for name in RELATION_WORDS if name],
)


def steps(name: str, minutes: float, every: int = 10) -> Iterator[tuple[float, int, list[float]]]:
    """(progress 0 to 1, step, losses) until the time is over; prints the mean of the losses every so many steps."""
    begun, step, losses = time.monotonic(), 0, list[float]()
    while minutes > 0 and (progress := (time.monotonic() - begun) / 60 / minutes) < 1:
        yield progress, step, losses
        step += 1
        if step % every == 0:
            print(f"{name} {progress:6.1%} step {step} loss {np.mean(losses):.4f}", flush=True)
            losses.clear()
    if losses:
        print(f"{name} 100.0% step {step} loss {np.mean(losses):.4f}", flush=True)


def pixels(scenes: list[Scene]) -> torch.Tensor:
    """(count, 3, SIZE, SIZE) in -1 to 1."""
    return torch.from_numpy(np.stack([np.asarray(s.image) for s in scenes])).permute(0, 3, 1, 2).float() / 127.5 - 1


def cut(rng: random.Random, picture: torch.Tensor, side: int) -> torch.Tensor:
    """A square cut from a picture around something that is not white."""
    rows, columns = torch.where(picture.amin(0) < 0.5)
    chosen = rng.randrange(len(rows))
    top, left = (
        min(max(0, int(middle[chosen]) - side // 2 + rng.randint(-16, 16)), SIZE - side) for middle in (rows, columns)
    )
    return picture[:, top : top + side, left : left + side]


def new_autoencoder() -> AutoencoderKL:
    """Thin where pictures are large. One group in each normalization: groups of a channel or two would each forget the
    level of theirs, and so the colour."""
    vae = AutoencoderKL(
        block_out_channels=(8, 16, 48, 64), latent_channels=CHANNELS, norm_num_groups=1, sample_size=SIZE,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=1,
        mid_block_add_attention=False,
    )  # fmt: skip
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if name.endswith("conv2.weight"):
                parameter.mul_(0.1)  # residual blocks that begin near identity learn sooner
        vae.quant_conv.weight[CHANNELS:] = 0
        vae.quant_conv.bias[CHANNELS:] = -5  # log variance: little noise at first
    return vae


def train_autoencoder(vae: AutoencoderKL, minutes: float, rng: random.Random) -> None:
    """Pictures to LATENT x LATENT x CHANNELS and back. Three quarters of the time on cuts with an edge in them: most of
    a picture is white, and a cut costs a quarter."""
    optimizer = torch.optim.AdamW(vae.parameters(), lr=2e-3)
    for progress, step, losses in steps("autoencoder", minutes):
        optimizer.param_groups[0]["lr"] = 2e-3 * min(1, (step + 1) / 50) * (1.01 - progress)
        batch = pixels([sample(rng) for _ in range(16 if progress < 0.75 else 6)])
        if progress < 0.75:
            batch = torch.stack([cut(rng, picture, SIZE // 2) for picture in batch])
        posterior = vae.encode(batch).latent_dist
        decoded = vae.decode(posterior.sample()).sample
        # The noise that the divergence allows makes the decoder forgive small errors of the U-Net.
        divergence = posterior.kl().mean() / posterior.mean[0].numel()
        loss = functional.l1_loss(decoded, batch) + 1e-4 * divergence
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())


def small(rng: random.Random) -> Scene:
    """Of two scenes the one with less ink: what a decoder gets wrong is mostly small."""
    return max((sample(rng), sample(rng)), key=lambda scene: int(np.asarray(scene.image, dtype=np.int64).sum()))


def train_decoder(vae: AutoencoderKL, minutes: float, rng: random.Random) -> None:
    """The decoder alone, on whole pictures: latents stay what they are, and so a U-Net for them stays right."""
    vae.requires_grad_(False)
    muon, others = [], []
    for name, parameter in vae.named_parameters():
        if name.startswith(("post_quant_conv", "decoder")):
            parameter.requires_grad_(True)
            inner = parameter.ndim > 1 and not name.startswith(("post_quant_conv", "decoder.conv_out"))
            (muon if inner else others).append(parameter)
    matrices, rest = Muon(muon), torch.optim.AdamW(others, lr=1e-3)
    for progress, step, losses in steps("decoder", minutes):
        rate = 1e-3 * min(1, (step + 1) / 50) * (1.01 - progress)
        rest.param_groups[0]["lr"] = rate
        batch = pixels([small(rng) if rng.random() < 0.7 else sample(rng) for _ in range(6)])
        with torch.no_grad():
            latents = vae.encode(batch).latent_dist.mean
            # As much noise as a U-Net's errors; objects and their edges weigh more than the white around.
            noise = 0.15 * torch.rand(len(batch), 1, 1, 1) * latents.std()
            latents = latents + noise * torch.randn_like(latents)
            weight = 1 + 4 * functional.max_pool2d(1 - batch.amin(1, keepdim=True), 7, stride=1, padding=3).clamp(max=1)
        loss = ((vae.decode(latents).sample - batch).abs() * weight).mean() / weight.mean()
        vae.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([*muon, *others], 1.0)
        matrices.step(rate)
        rest.step()
        losses.append(loss.item())


def make_tokenizer(folder: Path, rng: random.Random) -> CLIPTokenizer:
    """CLIP's own kind: lower-case BPE whose words end in ``</w>``."""
    core = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=640, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=[chr(c) for c in range(33, 127)] + [chr(c) + "</w>" for c in range(33, 127)],
    )  # fmt: skip
    core.train_from_iterator([write(rng, *ask(rng)) for _ in range(5000)], trainer)
    bpe = json.loads(core.to_str())["model"]
    vocab = dict(sorted(bpe["vocab"].items(), key=lambda item: item[1]))
    for token in [chr(c) for c in range(33, 127)] + [chr(c) + "</w>" for c in range(33, 127)]:
        vocab.setdefault(token, len(vocab))
    vocab["<|startoftext|>"], vocab["<|endoftext|>"] = len(vocab), len(vocab) + 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = [m if isinstance(m, str) else " ".join(m) for m in bpe["merges"]]
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=LENGTH)


def tokens_of(tokenizer: CLIPTokenizer, prompts: list[str]) -> torch.Tensor:
    """(count, LENGTH) ids."""
    ids: torch.Tensor = tokenizer(
        prompts, padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    return ids


def facts(asked: tuple[Asked, ...], relation: str | None) -> list[int]:
    """What a prompt says, as one class for each of FACTS."""
    known: list[object] = []
    for one in (asked[0], asked[1] if len(asked) > 1 else None):
        known += [one and one.shape, one and one.colour, one and one.size, one and one.place]
    return [[None, *choices].index(value) for choices, value in zip(FACTS, [*known, relation], strict=True)]  # type: ignore[list-item]


def train_text(text: CLIPTextModel, tokenizer: CLIPTokenizer, minutes: float, rng: random.Random) -> None:
    """Linear heads on the states behind the prompt's end tell what it says; they are thrown away afterwards.

    So the U-Net finds which colour belongs to which object ready in the states, and need not teach that to the text encoder.
    """
    heads = torch.nn.Linear(text.config.hidden_size, sum(len(choices) + 1 for choices in FACTS))
    parameters = [*text.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    for progress, step, losses in steps("text", minutes):
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1.02 - progress)
        wanted = [ask(rng) for _ in range(64)]
        tokens = tokens_of(tokenizer, [write(rng, *one) for one in wanted])
        classes = torch.tensor([facts(*one) for one in wanted])
        states = text(tokens).last_hidden_state
        ends = (tokens == tokenizer.eos_token_id).int().argmax(dim=1)
        # Any position from the end on, for the U-Net attends to all of them.
        where = ends + (torch.rand(len(ends)) * (LENGTH - ends)).long()
        guesses = heads(states[torch.arange(len(ends)), where]).split([len(choices) + 1 for choices in FACTS], dim=1)
        loss = torch.stack([functional.cross_entropy(g, c) for g, c in zip(guesses, classes.T, strict=True)]).sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())


class Pool:
    """Scenes with their latents, some drawn anew at each step."""

    def __init__(self, vae: AutoencoderKL, rng: random.Random, count: int, minutes: float) -> None:
        self.vae, self.rng = vae, rng
        self.scenes: list[Scene] = []
        parts = []
        end = time.monotonic() + 60 * minutes
        while len(self.scenes) < count and (not parts or time.monotonic() < end):
            scenes, latents = self.draw(10)
            self.scenes += scenes
            parts.append(latents)
        self.latents = torch.cat(parts)

    @torch.no_grad()
    def draw(self, count: int) -> tuple[list[Scene], torch.Tensor]:
        """Scenes and their latents, not scaled: (count, CHANNELS, LATENT, LATENT)."""
        scenes = [sample(self.rng) for _ in range(count)]
        latents: torch.Tensor = self.vae.encode(pixels(scenes)).latent_dist.mean
        return scenes, latents

    def refresh(self, count: int) -> None:
        scenes, latents = self.draw(count)
        for scene, latent in zip(scenes, latents, strict=True):
            place = self.rng.randrange(len(self.scenes))
            self.scenes[place], self.latents[place] = scene, latent


class Muon:
    """Momentum whose update of each matrix is made orthogonal (Jordan et al. 2024, "Muon"), here also for convolutions,
    as (out, in * height * width). Learns in fewer steps than Adam; the scale is Adam's (Liu et al. 2025)."""

    def __init__(self, parameters: list[torch.Tensor]) -> None:
        self.parameters = parameters
        self.momentum = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def step(self, rate: float) -> None:
        for parameter, momentum in zip(self.parameters, self.momentum, strict=True):
            gradient = parameter.grad
            momentum.lerp_(gradient, 0.05)
            x = gradient.lerp(momentum, 0.95).flatten(1)
            tall = x.shape[0] > x.shape[1]
            x = (x.T if tall else x) / (x.norm() + 1e-7)
            for _ in range(5):  # Newton-Schulz
                square = x @ x.T
                x = 3.4445 * x + (-4.775 * square + 2.0315 * square @ square) @ x
            update = (x.T if tall else x).reshape(parameter.shape)
            parameter.mul_(1 - 0.01 * rate).add_(update, alpha=-rate * 0.2 * max(x.shape) ** 0.5)


def train_unet(
    pipeline: StableDiffusionPipeline,
    pool: Pool,
    minutes: float,
    rng: random.Random,
    rate: float,
    save: Callable[[], None],
) -> None:
    """The U-Net alone; what stays is the mean of its weights over the last steps."""
    text, unet, tokenizer = pipeline.text_encoder, pipeline.unet, pipeline.tokenizer
    scale = pipeline.vae.config.scaling_factor
    remaining = pipeline.scheduler.alphas_cumprod
    parameters = list(unet.parameters())
    inner = {n: p.ndim > 1 and not n.startswith(("conv_in", "conv_out")) for n, p in unet.named_parameters()}
    muon = Muon([p for n, p in unet.named_parameters() if inner[n]])
    others = [p for n, p in unet.named_parameters() if not inner[n]]
    adam = torch.optim.AdamW(others, lr=rate, weight_decay=0.01, betas=(0.9, 0.99), fused=True)
    average = [p.detach().clone() for p in parameters]

    def settle() -> list[torch.Tensor]:
        """Put the means in place of the weights; gives the weights."""
        now = [p.detach().clone() for p in parameters]
        for mean, parameter in zip(average, parameters, strict=True):
            parameter.data.copy_(mean)
        return now

    saved = time.monotonic()
    for progress, step, losses in steps("U-Net", minutes):
        now_rate = rate * min(1, (step + 1) / 20, 1.5 * (1.02 - progress))
        adam.param_groups[0]["lr"] = now_rate
        pool.refresh(1)
        chosen = torch.randint(len(pool.scenes), (BATCH,))
        scenes = [pool.scenes[i] for i in chosen.tolist()]
        prompts = ["" if rng.random() < 0.1 else write(rng, s.asked, s.relation) for s in scenes]
        with torch.no_grad():
            states = text(tokens_of(tokenizer, prompts)).last_hidden_state
        clean, noise = pool.latents[chosen] * scale, torch.randn(BATCH, CHANNELS, LATENT, LATENT)
        when = torch.randint(1000, (BATCH,))
        signal, rest = (part.sqrt()[:, None, None, None] for part in (remaining[when], 1 - remaining[when]))
        predicted = unet(signal * clean + rest * noise, when, states).sample
        loss = functional.mse_loss(predicted, signal * noise - rest * clean)
        unet.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        muon.step(now_rate)
        adam.step()
        losses.append(loss.item())
        if step % 4 == 0:
            torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - min(0.95, step / (step + 10)))
        if time.monotonic() - saved > 240:  # so that little is lost when it is stopped
            now = settle()
            save()
            for parameter, value in zip(parameters, now, strict=True):
                parameter.data.copy_(value)
            saved = time.monotonic()
    settle()


def new_text(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=LENGTH, projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip


def new_unet() -> UNet2DConditionModel:
    """Attends to the prompt at 8 x 8 and 4 x 4, where it costs little; the whole of the prompt also reaches each
    residual block, with the time."""
    return UNet2DConditionModel(
        sample_size=LATENT, in_channels=CHANNELS, out_channels=CHANNELS, block_out_channels=(64, 96, 128), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16, addition_embed_type="text",
        addition_embed_type_num_heads=4,
    )  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--minutes", type=float, default=90)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="a folder with what is trained on or stays as it is")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=list(SHARES),
        default=list(SHARES),
        help="what to train; the minutes are shared out",
    )
    parser.add_argument("--pool", type=int, default=8000, help="pictures held at once for the U-Net")
    parser.add_argument("--rate", type=float, default=2e-3, help="the U-Net's learning rate, which falls to 0")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)
    begun = time.monotonic()
    minutes = {part: args.minutes * SHARES[part] / sum(SHARES[p] for p in args.parts) for part in args.parts}

    has_pipeline = args.start and (args.start / "model_index.json").is_file()
    if has_pipeline:
        begin = StableDiffusionPipeline.from_pretrained(args.start, safety_checker=None, torch_dtype=torch.float32)
        vae, tokenizer, text, unet = begin.vae, begin.tokenizer, begin.text_encoder, begin.unet
    else:
        vae = (
            AutoencoderKL.from_pretrained(args.start / "vae", torch_dtype=torch.float32)
            if args.start
            else new_autoencoder()
        )
        tokenizer = make_tokenizer(args.out / "tokenizer", random.Random(args.seed))
        text, unet = new_text(tokenizer), new_unet()

    if "autoencoder" in args.parts:
        train_autoencoder(vae, minutes["autoencoder"], rng)
    if "decoder" in args.parts:
        train_decoder(vae, minutes["decoder"], rng)
    vae.eval().requires_grad_(False)
    if "text" in args.parts:
        train_text(text, tokenizer, minutes["text"], rng)
    text.eval().requires_grad_(False)
    counts = (sum(p.numel() for p in part.parameters()) for part in (vae, text, unet))
    print("parameters: autoencoder {:,}, text {:,}, U-Net {:,}".format(*counts), flush=True)
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
        prediction_type="v_prediction", rescale_betas_zero_snr=True, timestep_spacing="trailing",
    )  # fmt: skip
    pipeline = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip

    def save() -> None:
        copies = {name: copy.deepcopy(getattr(pipeline, name)).half() for name in ("vae", "text_encoder", "unet")}
        StableDiffusionPipeline(
            **copies, tokenizer=tokenizer, scheduler=scheduler, safety_checker=None, feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(args.out)  # fmt: skip
        for file in args.out.glob("*/config.json"):  # they would name the folder that training began with
            config = json.loads(file.read_text())
            config.pop("_name_or_path", None)
            file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    if "unet" in args.parts:
        # A short run makes do with fewer pictures: these may take a tenth of its time.
        pool = Pool(vae, rng, args.pool, minutes=0.1 * args.minutes)
        if not has_pipeline or "autoencoder" in args.parts:
            vae.register_to_config(scaling_factor=float(1 / pool.latents.std()))
        train_unet(pipeline, pool, args.minutes - (time.monotonic() - begun) / 60, rng, args.rate, save)
    save()


if __name__ == "__main__":
    main()
