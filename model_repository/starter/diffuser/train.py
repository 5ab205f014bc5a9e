"""Train the starter diffuser: a small latent diffusion model in the diffusers folder format.

A KL autoencoder learns 64 x 64 pictures as 16 x 16 x 4 latents; then a U-Net and a CLIP-shaped text
encoder learn together to remove noise from them (epsilon prediction, Ho et al. 2020), with a tenth
of the prompts empty for classifier-free guidance (Ho & Salimans 2022).

    python train.py --out weights --minutes 30 --threads 2
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import torch
from data import PROMPTS, SHAPES, sample, COLOURS
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch.nn import functional
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

LENGTH = 24  # tokens of a prompt
# A processor without instructions for it computes bfloat16 many times slower than float32.
BF16 = any(flag in Path("/proc/cpuinfo").read_text() for flag in ("avx512_bf16", "amx_bf16"))


def make_tokenizer(folder: Path) -> CLIPTokenizer:
    """CLIP's own kind: lower-case BPE whose words end in ``</w>``."""
    core = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=512, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=[chr(c) for c in range(33, 127)] + [chr(c) + "</w>" for c in range(33, 127)],
    )  # fmt: skip
    core.train_from_iterator([p.format(c=c, s=s) for p in PROMPTS for c in COLOURS for s in SHAPES], trainer)
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


def train_autoencoder(pictures: torch.Tensor, minutes: float) -> AutoencoderKL:
    vae = AutoencoderKL(
        block_out_channels=(32, 32, 64), latent_channels=4, norm_num_groups=16, sample_size=64,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, layers_per_block=1,
    ).to(memory_format=torch.channels_last)  # fmt: skip
    optimizer = torch.optim.AdamW(vae.parameters(), lr=1e-3)
    begun, step = time.monotonic(), 0
    while (progress := (time.monotonic() - begun) / 60 / minutes) < 1:
        optimizer.param_groups[0]["lr"] = 1e-3 * min(1, (step + 1) / 50) * (1.02 - progress)
        batch = pictures[torch.randint(len(pictures), (16,))]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
            posterior = vae.encode(batch).latent_dist
            decoded = vae.decode(posterior.sample()).sample
        loss = functional.l1_loss(decoded.float(), batch) + 1e-5 * posterior.kl().mean() / 64
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        step += 1
        if step % 5 == 0:
            print(f"autoencoder {progress:6.1%} step {step} loss {loss.item():.4f}", flush=True)
    return vae


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--start", type=Path, help="go on from a trained folder; its autoencoder stays as it is")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    rng = random.Random(args.seed)

    begin = StableDiffusionPipeline.from_pretrained(args.start, safety_checker=None) if args.start else None
    tokenizer = begin.tokenizer if begin else make_tokenizer(args.out / "tokenizer")
    drawn = [sample(rng) for _ in range(6000)]
    pictures = torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1).float() / 127.5 - 1 for i, _ in drawn])
    prompts = tokenizer(
        [p for _, p in drawn], padding="max_length", max_length=LENGTH, truncation=True, return_tensors="pt"
    ).input_ids
    empty = tokenizer("", padding="max_length", max_length=LENGTH, return_tensors="pt").input_ids[0]

    vae = begin.vae if begin else train_autoencoder(pictures, args.minutes * 0.25)
    vae.eval().requires_grad_(False)
    with torch.no_grad():
        latents = torch.cat([vae.encode(part).latent_dist.mean for part in pictures.split(64)])
    if not begin:
        vae.register_to_config(scaling_factor=float(1 / latents.std()))
    latents = latents * vae.config.scaling_factor

    text = CLIPTextModel(CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=128, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=LENGTH, projection_dim=128, bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    ))  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=16, in_channels=4, out_channels=4, block_out_channels=(64, 96), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=128, attention_head_dim=4, norm_num_groups=16,
    )  # fmt: skip
    if begin:
        text, unet = begin.text_encoder, begin.unet
    parameters = [*text.parameters(), *unet.parameters()]
    print(
        f"autoencoder {sum(p.numel() for p in vae.parameters()):,}, text and U-Net {sum(p.numel() for p in parameters):,} parameters"
    )
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False, steps_offset=1,
    )  # fmt: skip
    optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)
    average = [p.detach().clone() for p in parameters]
    begun, step, minutes = time.monotonic(), 0, args.minutes * (1 if begin else 0.75)
    while (progress := (time.monotonic() - begun) / 60 / minutes) < 1:
        optimizer.param_groups[0]["lr"] = (7e-4 if begin else 1e-3) * min(1, (step + 1) / 100) * (1.02 - progress)
        chosen = torch.randint(len(latents), (32,))
        tokens = torch.where(torch.rand(32, 1) < 0.1, empty, prompts[chosen])
        clean, noise, when = latents[chosen], torch.randn(32, 4, 16, 16), torch.randint(1000, (32,))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=BF16):
            predicted = unet(scheduler.add_noise(clean, noise, when), when, text(tokens).last_hidden_state).sample
        # An error where noise is strong decides the colour, yet weighs little in epsilon; weigh it as
        # velocity prediction would (Salimans & Ho 2022), up to a limit.
        weight = (1 / scheduler.alphas_cumprod[when]).clamp(max=10.0)
        loss = (functional.mse_loss(predicted.float(), noise, reduction="none").mean(dim=(1, 2, 3)) * weight).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        step += 1
        decay = min(0.998, step / (step + 20))
        for mean, now in zip(average, parameters, strict=True):
            mean.lerp_(now.detach(), 1 - decay)
        if step % 5 == 0:
            print(f"U-Net {progress:6.1%} step {step} loss {loss.item():.4f}", flush=True)
    for mean, now in zip(average, parameters, strict=True):
        now.data.copy_(mean)
    StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=scheduler,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).to(torch.float16).save_pretrained(args.out)  # fmt: skip


if __name__ == "__main__":
    main()
