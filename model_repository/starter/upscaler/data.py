"""Pictures drawn by rule, and how a small picture is made from a large one.

KINDS are what the upscaler learns from; HELD_OUT are other kinds (and another font), which it never
sees and is measured on. Drawn pictures with the statistics of photographs, such as dead leaves, are
known to teach image restoration well (Achddou et al. 2021, "Synthetic images as an image prior").
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

SIDE = 192  # pixels of a drawn picture
OVER = 2  # drawn so much larger, then reduced: antialiasing
TRAINING_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ,.!?-"
HELD_OUT_LETTERS = "0123456789+=%&#@()[]{}<>/*:;$abcdefghijklmnopqrstuvwxyz"
Colour = tuple[int, int, int]


def colour(rng: np.random.Generator) -> Colour:
    """Half of the time greyish, as most of what is photographed is."""
    grey, spread = rng.uniform(10, 245), rng.choice([30, 120])
    r, g, b = (int(np.clip(grey + rng.uniform(-spread, spread), 0, 255)) for _ in range(3))
    return r, g, b


def noise(rng: np.random.Generator, side: int, slope: float) -> np.ndarray:
    """A random field (side, side), 0 to 1, whose amplitude spectrum falls as frequency ** -slope."""
    spectrum = np.fft.rfft2(rng.standard_normal((side, side), dtype=np.float32))
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    frequency[0, 0] = 1
    field = np.fft.irfft2(spectrum * frequency**-slope, s=(side, side))
    low, high = np.percentile(field, (1, 99))
    return np.clip((field - low) / (high - low), 0, 1).astype(np.float32)


def coordinates(side: int) -> tuple[np.ndarray, np.ndarray]:
    """x and y (side, side) of each pixel, -1 to 1."""
    line = np.linspace(-1, 1, side, dtype=np.float32)
    return np.broadcast_to(line, (side, side)), np.broadcast_to(line[:, None], (side, side))


def mix(amount: np.ndarray, *colours: Colour) -> np.ndarray:
    """Colours (side, side, 3) along a palette, by an amount 0 to 1."""
    steps = np.linspace(0, 1, len(colours))
    return np.stack([np.interp(amount, steps, [c[i] for c in colours]) for i in range(3)], -1).astype(np.float32)


def ramp(rng: np.random.Generator, side: int) -> np.ndarray:
    """0 to 1, growing along a line or from a point."""
    x, y = coordinates(side)
    if rng.random() < 0.5:
        angle = rng.uniform(0, 2 * math.pi)
        return np.clip(0.5 + 0.5 * (x * math.cos(angle) + y * math.sin(angle)), 0, 1)
    return np.clip(np.hypot(x - rng.uniform(-1, 1), y - rng.uniform(-1, 1)) / rng.uniform(0.8, 2), 0, 1)


def background(rng: np.random.Generator, side: int) -> Image.Image:
    """One colour, a gradient or clouds."""
    choice = rng.random()
    if choice < 0.4:
        return Image.new("RGB", (side, side), colour(rng))
    field = ramp(rng, side) if choice < 0.8 else noise(rng, side, rng.uniform(1.5, 2.5))
    return to_image(mix(field, colour(rng), colour(rng)))


def to_image(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def polygon(rng: np.random.Generator, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corners of a circle, a regular polygon, a star, a box or an uneven blob, turned by any angle."""
    kind, turn = rng.integers(5), rng.uniform(0, 2 * math.pi)
    corners = [48, rng.integers(3, 8), 2 * rng.integers(4, 8), 4, rng.integers(5, 12)][kind]
    angles = turn + 2 * math.pi * np.arange(corners) / corners
    lengths = np.full(corners, radius)
    if kind == 2:
        lengths[1::2] *= rng.uniform(0.3, 0.7)
    elif kind == 4:
        lengths *= rng.uniform(0.4, 1.2, corners)
    a, b = lengths * np.cos(angles), lengths * np.sin(angles) * (rng.uniform(0.3, 1) if kind in (0, 3) else 1)
    tilt = rng.uniform(0, 2 * math.pi)
    return list(
        zip(
            (x + a * math.cos(tilt) - b * math.sin(tilt)).tolist(),
            (y + a * math.sin(tilt) + b * math.cos(tilt)).tolist(),
            strict=True,
        )
    )


def shapes(rng: np.random.Generator, side: int) -> Image.Image:
    """Filled and outlined shapes of all sizes."""
    image = background(rng, side)
    draw = ImageDraw.Draw(image)
    for _ in range(rng.integers(1, 25)):
        points = polygon(rng, *rng.uniform(0, side, 2), radius=side * rng.uniform(0.05, 0.3) ** 1.3)
        line = int(rng.integers(1, 10))
        if rng.random() < 0.3:
            draw.line([*points, points[0], points[1]], fill=colour(rng), width=line, joint="curve")
        else:
            draw.polygon(points, fill=colour(rng))
    return image


def stripes(rng: np.random.Generator, side: int) -> Image.Image:
    """Stripes, waves or a checkerboard, turned, perhaps bent; periods of 4 to 40 pixels of the picture."""
    x, y = coordinates(side)
    angle, period = rng.uniform(0, math.pi), 2 * OVER * math.exp(rng.uniform(math.log(2), math.log(20)))
    bend = rng.choice([0, 0, rng.uniform(0, 0.2)]) * noise(rng, side, 2.2) if rng.random() < 0.5 else 0
    u = (x * math.cos(angle) + y * math.sin(angle) + bend) * side / 2 / period
    v = (y * math.cos(angle) - x * math.sin(angle)) * side / 2 / period
    kind = rng.integers(3)
    if kind == 0:
        field = (u % 1 < rng.uniform(0.2, 0.8)).astype(np.float32)
    elif kind == 1:
        field = 0.5 + 0.5 * np.sin(2 * math.pi * u)
    else:
        field = ((np.floor(u) + np.floor(v)) % 2).astype(np.float32)
    first, second = (np.asarray(background(rng, side), dtype=np.float32) for _ in range(2))
    return to_image(first + (second - first) * field[..., None])


def text(rng: np.random.Generator, side: int, letters: str = TRAINING_LETTERS) -> Image.Image:
    """Lines in Pillow's own font, small to large, some turned."""
    image = background(rng, side)
    font = ImageFont.load_default(OVER * math.exp(rng.uniform(math.log(9), math.log(60))))
    layer = Image.new("L", (side, side))
    draw, y = ImageDraw.Draw(layer), rng.uniform(-5, 10)
    while y < side:
        draw.text((rng.uniform(-10, 10), y), "".join(rng.choice(list(letters), 60)), fill=255, font=font)
        y += font.size * rng.uniform(1.05, 1.5)
    if rng.random() < 0.4:
        layer = layer.rotate(rng.uniform(-40, 40), Image.Resampling.BICUBIC)
    image.paste(background(rng, side) if rng.random() < 0.2 else colour(rng), (0, 0), layer)
    return image


def curves(rng: np.random.Generator, side: int) -> Image.Image:
    """Bezier curves, thin to thick."""
    image = background(rng, side)
    draw = ImageDraw.Draw(image)
    t = np.linspace(0, 1, 60)[:, None]
    for _ in range(rng.integers(3, 40)):
        a, b, c, d = rng.uniform(-0.2, 1.2, (4, 2)) * side
        points = (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d
        width = int(OVER * math.exp(rng.uniform(0, math.log(8))))
        draw.line([tuple(p) for p in points.tolist()], fill=colour(rng), width=width, joint="curve")
    return image


def clouds(rng: np.random.Generator, side: int) -> Image.Image:
    """Fractal noise through a palette, smooth to rough."""
    return to_image(mix(noise(rng, side, rng.uniform(0.9, 2.3)), *(colour(rng) for _ in range(rng.integers(2, 6)))))


def texture(rng: np.random.Generator, side: int) -> np.ndarray:
    """What covers a leaf: (side, side, 3)."""
    choice = rng.random()
    if choice < 0.4:
        return np.broadcast_to(np.array(colour(rng), dtype=np.float32), (side, side, 3))
    if choice < 0.85:
        base, other = colour(rng), colour(rng)
        near = tuple(int(p + (q - p) * rng.uniform(0.1, 0.6)) for p, q in zip(base, other, strict=True))
        return mix(noise(rng, side, rng.uniform(0.6, 2)), base, near)  # type: ignore[arg-type]
    return np.asarray(stripes(rng, side), dtype=np.float32)


def leaves(rng: np.random.Generator, side: int) -> Image.Image:
    """Dead leaves: shapes of all scales that hide one another (Lee et al. 2001), flat or textured, with light on them."""
    many = 10
    layer = Image.new("L", (side, side))
    draw = ImageDraw.Draw(layer)
    small, large = side * rng.uniform(0.015, 0.04), side * rng.uniform(0.2, 0.5)
    count = int(rng.integers(80, 400))
    # Sizes whose density falls as radius ** -3, by inversion.
    radii = (small**-2 - rng.random(count) * (small**-2 - large**-2)) ** -0.5
    for i, radius in enumerate(np.sort(radii)[::-1] if rng.random() < 0.5 else radii):
        draw.polygon(polygon(rng, *rng.uniform(0, side, 2), radius=float(radius)), fill=1 + i % (many - 1))
    index = np.asarray(layer)
    pixels = np.zeros((side, side, 3), np.float32)
    for i in range(many):
        mask = index == i
        pixels[mask] = texture(rng, side)[mask]
    light = 0.6 + 0.7 * noise(rng, side, 2.5) if rng.random() < 0.7 else 1
    return to_image(pixels * np.broadcast_to(light, (side, side))[..., None])


def hills(rng: np.random.Generator, side: int) -> Image.Image:
    """Ridges that fade into a sky; each lit as a rough slope is (Lambert) and covered with grain."""
    pixels = mix(ramp(rng, side), colour(rng), colour(rng))
    sky, ground = colour(rng), colour(rng)
    count = int(rng.integers(2, 7))
    rows = np.arange(side)[:, None]
    for i in range(count):
        ridge = noise(rng, side, rng.uniform(1.2, 2))[int(rng.integers(side))] * side * rng.uniform(0.1, 0.5)
        mask = rows > side * (0.15 + 0.8 * i / count) + ridge - side * 0.15
        height = noise(rng, side, rng.uniform(1.2, 2.2))
        dy, dx = np.gradient(height * side * rng.uniform(0.1, 0.6))
        light = np.clip((1 + dx * rng.uniform(-1, 1) - dy) / np.sqrt(1 + dx**2 + dy**2), 0.1, 1.6)
        near = (i + 1) / count
        base = np.array(sky) + (np.array(ground) - np.array(sky)) * near
        pixels[mask] = (base * (1 - near + near * light[..., None]))[mask]
    return to_image(pixels)


KINDS: dict[str, tuple[Callable[[np.random.Generator, int], Image.Image], float]] = {
    "shapes": (shapes, 1),
    "stripes": (stripes, 0.8),
    "text": (text, 1.2),
    "curves": (curves, 1),
    "clouds": (clouds, 0.8),
    "leaves": (leaves, 2.5),
    "hills": (hills, 1),
}


def mosaic(rng: np.random.Generator, side: int) -> Image.Image:
    """The nearest of random points (Voronoi cells), with joints between them."""
    count = int(rng.integers(20, 120))
    points, colours = rng.uniform(-1.1, 1.1, (count, 2)), np.array([colour(rng) for _ in range(count)], np.float32)
    x, y = coordinates(side)
    distance = np.sort(d := np.hypot(x[..., None] - points[:, 0], y[..., None] - points[:, 1]), -1)
    joint = np.clip((distance[..., 1] - distance[..., 0]) / rng.uniform(0.01, 0.05), 0, 1)[..., None]
    return to_image(colours[d.argmin(-1)] * joint * (0.7 + 0.3 * noise(rng, side, 2))[..., None])


def bricks(rng: np.random.Generator, side: int) -> Image.Image:
    """A wall in running bond; each brick has its own tone and grain."""
    image = Image.new("RGB", (side, side), colour(rng))
    draw, tone = ImageDraw.Draw(image), np.array(colour(rng))
    height = side / rng.uniform(6, 16)
    width, gap = height * rng.uniform(1.6, 3), height * rng.uniform(0.06, 0.2)
    for row in range(int(side / height) + 2):
        for column in range(-1, int(side / width) + 2):
            left, top = (column + row % 2 / 2) * width, row * height
            shade = tuple(int(v) for v in np.clip(tone + rng.uniform(-40, 40) + rng.uniform(-10, 10, 3), 0, 255))
            draw.rectangle((left, top, left + width - gap, top + height - gap), fill=shade)
    grain = 0.7 + 0.5 * noise(rng, side, 0.9)
    return to_image(np.asarray(image.rotate(rng.uniform(-8, 8), Image.Resampling.BICUBIC)) * grain[..., None])


def maze(rng: np.random.Generator, side: int) -> Image.Image:
    """Truchet's tiles: quarter circles that join to winding paths (Smith 1987)."""
    image = background(rng, side)
    draw, cell, ink = ImageDraw.Draw(image), side / int(rng.integers(5, 14)), colour(rng)
    line = max(2, int(cell * rng.uniform(0.1, 0.4)))
    for i in range(int(side / cell) + 1):
        for j in range(int(side / cell) + 1):
            x, y = i * cell, j * cell
            corners = [(x, y), (x + cell, y + cell)] if rng.random() < 0.5 else [(x + cell, y), (x, y + cell)]
            for a, b in corners:
                r = cell / 2 + line / 2
                start = (0 if a == x else 90) if b == y else (270 if a == x else 180)
                draw.arc((a - r, b - r, a + r, b + r), start, start + 90, fill=ink, width=line)
    return image


def bitmap_text(rng: np.random.Generator, side: int) -> Image.Image:
    """Digits and signs in Pillow's bitmap font, which no training picture uses, one to three times its size."""
    image, font, scale = background(rng, side), ImageFont.load_default_imagefont(), int(rng.integers(1, 4))
    small = Image.new("L", (side // scale, side // scale))
    draw = ImageDraw.Draw(small)
    for y in range(0, side // scale, 13):
        draw.text((1, y), "".join(rng.choice(list(HELD_OUT_LETTERS), 80)), fill=255, font=font)
    image.paste(
        colour(rng), (0, 0), small.resize((small.width * scale, small.height * scale), 0).crop((0, 0, side, side))
    )
    return image


def julia(rng: np.random.Generator, side: int) -> Image.Image:
    """A Julia set, coloured by how fast points escape."""
    x, y = coordinates(side)
    z, angle = (x + 1j * y).astype(np.complex64) * rng.uniform(0.7, 1.5), rng.uniform(0, 2 * math.pi)
    constant, steps = 0.7885 * np.exp(1j * angle), np.zeros((side, side), np.float32)
    for _ in range(40):
        inside = np.abs(z) < 4
        z[inside] = z[inside] ** 2 + constant
        steps += inside
    return to_image(mix(np.sqrt(steps / 40), *(colour(rng) for _ in range(4))))


def wood(rng: np.random.Generator, side: int) -> Image.Image:
    """Rings of a stretched, bent distance, as in cut wood or marble (Perlin 1985)."""
    x, y = coordinates(side)
    bent = np.hypot(x * rng.uniform(0.2, 1) + rng.uniform(-1, 1), y) + 0.25 * noise(rng, side, 2.1)
    rings = 0.5 + 0.5 * np.sin(bent * rng.uniform(20, 70))
    return to_image(mix(0.8 * rings + 0.2 * noise(rng, side, 0.8), *(colour(rng) for _ in range(3))))


def tree(rng: np.random.Generator, side: int) -> Image.Image:
    """A branching plant before a sky."""
    image = to_image(mix(coordinates(side)[1] / 2 + 0.5, colour(rng), colour(rng)))
    draw, bark, leaf = ImageDraw.Draw(image), colour(rng), colour(rng)

    def grow(x: float, y: float, angle: float, length: float) -> None:
        end = x + length * math.cos(angle), y + length * math.sin(angle)
        draw.line([(x, y), end], fill=bark, width=max(1, int(length / 7)))
        if length < side / 40:
            r = side * rng.uniform(0.005, 0.015)
            draw.ellipse((end[0] - r, end[1] - r, end[0] + r, end[1] + r), fill=leaf)
            return
        for turn in rng.uniform(0.2, 0.6, 2) * (1, -1):
            grow(*end, angle=angle + turn, length=length * rng.uniform(0.68, 0.85))

    grow(side * rng.uniform(0.35, 0.65), side, -math.pi / 2 + rng.uniform(-0.2, 0.2), side * rng.uniform(0.18, 0.26))
    return image


def balls(rng: np.random.Generator, side: int) -> Image.Image:
    """Balls on a chequered floor, ray traced: diffuse and mirrored light (Phong 1975), soft shade under them."""
    x, y = coordinates(side)
    direction = np.stack([x, -y * 0.9 - 0.25, np.full_like(x, 1.6)], -1)
    direction /= np.linalg.norm(direction, axis=-1, keepdims=True)
    light = np.array([rng.uniform(-1, 1), 1.2, -0.8])
    light /= np.linalg.norm(light)
    pixels = mix(np.clip(-y, 0, 1), colour(rng), colour(rng))
    depth = np.where(direction[..., 1] < -0.02, 1 / np.maximum(-direction[..., 1], 0.02), np.inf)
    spot = direction * np.where(np.isfinite(depth), depth, 0)[..., None]
    tile, first, second = rng.uniform(0.3, 0.8), np.array(colour(rng)), np.array(colour(rng))
    odd = (np.floor(spot[..., 0] / tile) + np.floor(spot[..., 2] / tile)) % 2 > 0
    floor = np.where(odd[..., None], first, second) * np.clip(1.6 / (0.6 + depth), 0, 1)[..., None]
    spheres = [(np.array([rng.uniform(-1, 1), -1 + r, rng.uniform(1.4, 3)]), r) for r in rng.uniform(0.2, 0.6, 3)]
    for centre, radius in spheres:
        far = np.hypot(spot[..., 0] - centre[0] + light[0] * radius, spot[..., 2] - centre[2] + light[2] * radius)
        floor *= np.clip(far / radius, 0.35, 1)[..., None]
    pixels = np.where(np.isfinite(depth)[..., None], floor, pixels)
    for centre, radius in spheres:
        along = direction @ centre
        inner = along**2 - centre @ centre + radius**2
        distance = along - np.sqrt(np.maximum(inner, 0))
        hit = (inner > 0) & (distance < depth)
        normal = (direction * distance[..., None] - centre) / radius
        diffuse = np.clip(normal @ light, 0, 1)[..., None]
        mirrored = direction - 2 * (direction * normal).sum(-1, keepdims=True) * normal
        shine = np.clip(mirrored @ light, 0, 1)[..., None] ** rng.uniform(10, 60)
        pixels = np.where(hit[..., None], np.array(colour(rng)) * (0.25 + 0.75 * diffuse) + 200 * shine, pixels)
        depth = np.where(hit, distance, depth)
    return to_image(pixels)


HELD_OUT: dict[str, Callable[[np.random.Generator, int], Image.Image]] = {
    "mosaic": mosaic,
    "bricks": bricks,
    "maze": maze,
    "bitmap text": bitmap_text,
    "julia": julia,
    "wood": wood,
    "tree": tree,
    "balls": balls,
}


def finish(rng: np.random.Generator, drawn: Image.Image, side: int) -> np.ndarray:
    """To size; as from a camera, some a little soft and some with grain: (side, side, 3) uint8."""
    image = drawn.resize((side, side), Image.Resampling.LANCZOS if rng.random() < 0.5 else Image.Resampling.BOX)
    if rng.random() < 0.35:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.3, 1.2)))
    pixels = np.asarray(image)
    if rng.random() < 0.25:
        grain = rng.standard_normal(pixels.shape, dtype=np.float32) * rng.uniform(0.5, 4)
        pixels = np.clip(pixels + grain + 0.5, 0, 255).astype(np.uint8)
    return pixels


def picture(rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, str]:
    """A training picture (side, side, 3) uint8 and its kind."""
    weights = np.array([weight for _, weight in KINDS.values()])
    kind = str(rng.choice(list(KINDS), p=weights / weights.sum()))
    return finish(rng, KINDS[kind][0](rng, side * OVER), side), kind


def held_out(count: int, seed: int = 7, side: int = SIDE) -> list[tuple[np.ndarray, str]]:
    """Pictures of kinds that are not trained on, in turn."""
    found = []
    for i in range(count):
        rng = np.random.default_rng((seed, 1_000_000 + i))
        kind = list(HELD_OUT)[i % len(HELD_OUT)]
        found.append((finish(rng, HELD_OUT[kind](rng, side * OVER), side), kind))
    return found


def familiar(count: int, seed: int = 7, side: int = SIDE) -> list[tuple[np.ndarray, str]]:
    """Pictures of the trained kinds, from seeds that are not trained on."""
    return [picture(np.random.default_rng((seed, 2_000_000 + i)), side) for i in range(count)]


def kernel(rng: np.random.Generator) -> np.ndarray:
    """(12,) weights that halve a row of pixels: area, bicubic, bilinear, Lanczos, a Gaussian, or between two of them."""
    at = (np.arange(12) - 5.5) / 2  # distance of the 12 nearest pixels, in pixels of the small picture

    def one() -> np.ndarray:
        x = np.abs(at)
        kind = rng.choice(5, p=(0.3, 0.3, 0.1, 0.1, 0.2))
        if kind == 0:
            weights = (x < 0.5).astype(np.float64)
        elif kind == 1:
            a = -0.5
            weights = np.where(x < 1, (a + 2) * x**3 - (a + 3) * x**2 + 1, a * (x**3 - 5 * x**2 + 8 * x - 4) * (x < 2))
        elif kind == 2:
            weights = np.maximum(1 - x, 0)
        elif kind == 3:
            weights = np.sinc(x) * np.sinc(x / 3) * (x < 3)
        else:
            weights = np.exp(-0.5 * (x / rng.uniform(0.3, 0.5)) ** 2)
        return weights / weights.sum()

    first = one()
    return first + (one() - first) * rng.random() if rng.random() < 0.3 else first


def halve(pixels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 to (H/2, W/2, 3) uint8; H and W even; ``weights`` as ``kernel`` gives them."""
    found = pixels.astype(np.float32)
    for axis in (0, 1):
        size = found.shape[axis]
        padded = np.pad(found, [(5, 5) if a == axis else (0, 0) for a in range(3)], mode="edge")
        found = sum(
            float(w) * (padded[i : i + size : 2] if axis == 0 else padded[:, i : i + size : 2])
            for i, w in enumerate(weights)
            if w
        )
    return np.clip(found + 0.5, 0, 255).astype(np.uint8)


def reduce(pixels: np.ndarray, method: Image.Resampling = Image.Resampling.BICUBIC) -> np.ndarray:
    """Half the size, as Pillow does it."""
    height, width = pixels.shape[0] // 2, pixels.shape[1] // 2
    return np.asarray(Image.fromarray(pixels[: height * 2, : width * 2]).resize((width, height), method))


def bicubic(pixels: np.ndarray) -> np.ndarray:
    """Twice the size, as Pillow's bicubic resampling does it."""
    return np.asarray(
        Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.BICUBIC)
    )


class Pool:
    """Training crops from drawn pictures, one of which is replaced at every third batch."""

    def __init__(self, seed: int, size: int = 128) -> None:
        self.rng = np.random.default_rng(seed)
        self.pictures = [picture(self.rng)[0] for _ in range(size)]
        self.batches = 0

    def batch(self, count: int, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Small (count, side/2, side/2, 3) and large (count, side, side, 3) crops, uint8, turned and mirrored."""
        self.batches += 1
        if self.batches % 3 == 0:  # drawing takes as long as half a step of training
            self.pictures[self.batches // 3 % len(self.pictures)] = picture(self.rng)[0]
        small, large = [], []
        for _ in range(count):
            whole = self.pictures[self.rng.integers(len(self.pictures))]
            top, left = self.rng.integers(0, whole.shape[0] - side + 1, 2)
            crop = np.rot90(whole[top : top + side, left : left + side], self.rng.integers(4))
            crop = crop[:, :: self.rng.choice([-1, 1])][..., self.rng.permutation(3)]
            small.append(halve(crop, kernel(self.rng)))
            large.append(crop)
        return np.stack(small), np.stack(large)
