"""Measure an upscaler beside bicubic on drawn pictures of kinds it never saw; writes a sheet of samples.

    python evaluate.py --model ../../../.state/models/upscaler/1/weights --sheet sheet.png

``--model`` is a trained folder (model.safetensors) or a built version's (openvino_model.xml). The
truth is halved by Pillow's bicubic or box (area) resampling, doubled, and compared (``metrics.py``).
``--photos FOLDER`` measures the picture files in a folder too, in tiles of 192 pixels.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import data
import metrics
import numpy as np
from PIL import Image

Enlarge = Callable[[np.ndarray], np.ndarray]
MEASURES = (metrics.psnr, metrics.ssim, metrics.sharpness, metrics.perceptual, metrics.gmsd)


def loaded(folder: Path) -> Enlarge:
    """The model as a function from (H, W, 3) to (2 H, 2 W, 3), uint8."""
    if (folder / "openvino_model.xml").is_file():
        import openvino as ov

        compiled = ov.Core().compile_model(
            str(folder / "openvino_model.xml"), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        return lambda pixels: np.array(compiled(pixels)[0])
    import torch
    from network import Pixels, load

    network = Pixels(load(folder))

    def enlarge(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(np.array(pixels))).contiguous().numpy()

    return enlarge


def measured(truths: list[np.ndarray], enlarge: Enlarge, method: Image.Resampling) -> np.ndarray:
    """(pictures, 2, measures): of the model and of bicubic."""
    found = []
    for truth in truths:
        small = data.reduce(truth, method)
        images = enlarge(small), data.bicubic(small)
        found.append([[measure(image, truth) for measure in MEASURES] for image in images])
    return np.array(found)


def report(name: str, figures: np.ndarray) -> None:
    """One line for the model and one for bicubic: means over the pictures."""
    for i, label in enumerate(("model", "bicubic")):
        means = " ".join(f"{v:10.4f}" for v in figures[:, i].mean(0))
        better = (figures[:, 0, 3] < figures[:, 1, 3]).mean()
        note = f"  perceptually nearer than bicubic in {better:.0%}" if label == "model" else ""
        print(f"{name:24s} {len(figures):4d} {label:8s} {means}{note}", flush=True)


def sheet(enlarge: Enlarge, path: Path, rows: int = 4, zoom: int = 2) -> None:
    """Rows of: the small picture (nearest pixels), bicubic, the model, the truth; a 96-pixel part, enlarged."""
    lines = []
    for truth, _ in data.held_out(len(data.HELD_OUT), seed=11)[:: len(data.HELD_OUT) // rows]:
        small = data.reduce(truth)
        nearest = small.repeat(2, 0).repeat(2, 1)
        line = [x[48:144, 48:144].repeat(zoom, 0).repeat(zoom, 1) for x in
                (nearest, data.bicubic(small), enlarge(small), truth)]  # fmt: skip
        lines.append(np.hstack(line))
    Image.fromarray(np.vstack(lines)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path(__file__).parent / "weights")
    parser.add_argument("--count", type=int, default=128, help="held-out pictures")
    parser.add_argument("--photos", type=Path, help="a folder with picture files of your own")
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    enlarge = loaded(args.model)
    print(f"{'pictures':24s} {'':4s} {'':8s} " + " ".join(f"{m.__name__:>10s}" for m in MEASURES))
    pictures = data.held_out(args.count)
    truths, kinds = [truth for truth, _ in pictures], np.array([kind for _, kind in pictures])
    figures = measured(truths, enlarge, Image.Resampling.BICUBIC)
    report("held-out kinds, bicubic", figures)
    for kind in data.HELD_OUT:
        report(f"  {kind}", figures[kinds == kind])
    report("held-out kinds, box", measured(truths, enlarge, Image.Resampling.BOX))
    seen = [truth for truth, _ in data.familiar(args.count // 2)]
    report("trained kinds, new seeds", measured(seen, enlarge, Image.Resampling.BICUBIC))
    if args.photos:
        tiles = []
        for path in sorted(args.photos.iterdir()):
            if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"):
                pixels = np.asarray(Image.open(path).convert("RGB"))
                for top in range(0, pixels.shape[0] - data.SIDE + 1, data.SIDE):
                    for left in range(0, pixels.shape[1] - data.SIDE + 1, data.SIDE):
                        tiles.append(pixels[top : top + data.SIDE, left : left + data.SIDE])
        for method in (Image.Resampling.BICUBIC, Image.Resampling.BOX):
            report(f"photographs, {method.name.lower()}", measured(tiles, enlarge, method))
    if args.sheet:
        sheet(enlarge, args.sheet)


if __name__ == "__main__":
    main()
