"""Sixteen styles in six families, each painting any scene; painted at several times the wanted size and reduced.

Those of a family share a word and a way of working, and differ by degree: three sketches, three paints, three prints,
three mosaics, three kinds of lines; `photo` is the style that is none."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops

from fade.data.canvas.scene import Part, Scene
from fade.data.shapes import Brush, Colour, blurred, coordinates, deepened, hsv, poly

WHITE, INK = (250, 248, 242), (24, 22, 28)


class SceneBrush(Brush):
    """A brush that knows what a scene is made of."""

    def outline(self, part: Part, colour: Colour | int, width: float) -> None:
        self.line(part.points, colour, width * part.weight, closed=not part.stroke)

    def parts(
        self, scene: Scene, colour: Callable[[Part], Colour], line: Colour | None = None, width: float = 0.0
    ) -> None:
        for part in scene.parts:
            if part.stroke:
                self.outline(part, line or colour(part), max(width, 0.018))
                continue
            self.fill(part.points, colour(part))
            if line is not None:
                self.outline(part, line, width)


# pieces that styles share


def own(part: Part) -> Colour:
    return part.colour


def silhouette(scene: Scene, n: int) -> Image.Image:
    brush = SceneBrush(n, 0, "L")
    for part in scene.parts:
        if part.stroke:
            brush.outline(part, 255, 0.018)
        else:
            brush.fill(part.points, 255)
    return brush.image


def as_image(canvas: np.ndarray) -> Image.Image:
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def plain(scene: Scene, n: int) -> Image.Image:
    """The scene in its own flat colours: what many styles start from."""
    brush = SceneBrush(n, scene.sky)
    brush.ground(scene.horizon, scene.ground)
    brush.parts(scene, own)
    return brush.image


def toned(scene: Scene, n: int) -> np.ndarray:
    """How dark the scene is, (n, n) in [0, 1]: what one-ink styles start from."""
    brush = SceneBrush(n, (48, 48, 48))
    brush.ground(scene.horizon, (92, 92, 92))
    grey = {"main": 205, "second": 168, "accent": 132, "light": 16, "dark": 252}
    brush.parts(scene, lambda part: (grey[part.tone],) * 3)
    return np.asarray(blurred(brush.image.convert("L"), 0.004), float) / 255


def noise(n: int, cells: int, rng: Generator) -> np.ndarray:
    """Smooth noise (n, n) in [0, 1] with about `cells` bumps a side."""
    small = Image.fromarray((255 * rng.random((cells, cells))).astype(np.uint8))
    return np.asarray(small.resize((n, n), Image.Resampling.BICUBIC), float) / 255


def warped(image: np.ndarray, amount: float, cells: int, rng: Generator) -> np.ndarray:
    """The image with its pixels pushed about by smooth noise, at most `amount` of its side."""
    n = len(image)
    x, y = coordinates(n)
    dx, dy = (2 * amount * (noise(n, cells, rng) - 0.5) for _ in range(2))
    rows, cols = (np.clip((v + d) * n, 0, n - 1).astype(int) for v, d in ((y, dy), (x, dx)))
    return image[rows, cols]


# the style that is none


def photo(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Soft light from the upper left, a shadow on the ground, a vignette."""
    brush = SceneBrush(n, scene.sky)
    brush.ground(scene.horizon, scene.ground)
    shape = silhouette(scene, n)
    shadow = blurred(ImageChops.offset(shape, round(0.035 * n), round(0.045 * n)), 0.03)
    back = Image.composite(
        Image.new("RGB", (n, n), (40, 38, 50)), blurred(brush.image, 0.02), shadow.point(lambda v: v // 2)
    )
    brush = SceneBrush(n, 0)
    brush.image.paste(back)
    brush.parts(scene, own)
    x, y = coordinates(n)
    light = 1.14 - 0.45 * np.hypot(x - 0.35, y - 0.3)
    soft, body = (np.asarray(i, float) / 255 for i in (blurred(shape, 0.05), shape))
    light = light * (1 - 0.7 * body * np.clip(1 - soft, 0, 1))
    return as_image(np.asarray(brush.image, float) * light[..., None])


# sketches: outlines on paper


def ink_sketch(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Heavy black pen on white, the dark parts filled."""
    brush = SceneBrush(n, WHITE)
    brush.line(poly((0, scene.horizon[0]), (1, scene.horizon[1])), INK, 0.014)
    for part in scene.parts:
        if not part.stroke:
            brush.fill(part.points, INK if part.tone in ("dark", "accent") else WHITE)
        brush.outline(part, INK, 0.03)
    return as_image(warped(np.asarray(brush.image), 0.008, 24, rng))


def pencil_sketch(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Thin graphite outlines on grey paper, tone by hatching."""
    paper, lead = np.array([232.0, 230.0, 226.0]), (66, 66, 72)
    x, y = coordinates(n)
    dark = toned(scene, n)
    hatch = (np.abs(((x + y) * 18) % 1 - 0.5) < 0.17) & (dark > 0.3)
    cross = (np.abs(((x - y) * 18) % 1 - 0.5) < 0.15) & (dark > 0.6)
    canvas = np.where((hatch | cross)[..., None], np.array([132.0, 132.0, 138.0]), paper)
    brush = SceneBrush(n, 0)
    brush.image.paste(as_image(canvas))
    brush.line(poly((0, scene.horizon[0]), (1, scene.horizon[1])), lead, 0.01)
    for part in scene.parts:
        brush.outline(part, lead, 0.015)
    return brush.image


def charcoal_sketch(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Broad smudged strokes on brown paper, with grain."""
    lines = SceneBrush(n, 0, "L")
    lines.line(poly((0, scene.horizon[0]), (1, scene.horizon[1])), 150, 0.02)
    for part in scene.parts:
        lines.outline(part, 235, 0.036)
    stroke = np.asarray(blurred(lines.image, 0.007), float) / 255
    smudge = np.asarray(blurred(Image.fromarray((255 * toned(scene, n)).astype(np.uint8)), 0.02), float) / 255
    grain = 0.55 + 0.9 * noise(n, 64, rng)
    dark = np.clip((0.95 * stroke + 0.5 * np.clip(smudge - 0.2, 0, 1)) * grain, 0, 1)[..., None]
    return as_image(np.array([205.0, 184.0, 152.0]) * (1 - dark) + np.array([38.0, 32.0, 30.0]) * dark)


# paints: colour that leaves its outline


def water_paint(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Pale washes that bleed over white paper, pigment gathered at the edges."""
    wash = warped(np.asarray(blurred(plain(scene, n), 0.013), float), 0.022, 12, rng)
    shape = warped(np.asarray(blurred(silhouette(scene, n), 0.012), float), 0.022, 12, rng) / 255
    x, y = coordinates(n)
    edge = np.clip(1 - np.abs(shape - 0.5) / 0.3, 0, 1)
    around = np.clip(1.2 - 2.2 * np.hypot(x - 0.5, y - 0.5), 0, 1)
    amount = np.clip(0.66 * shape + 0.42 * around * (1 - shape) + 0.3 * edge, 0, 1) * (0.8 + 0.4 * noise(n, 9, rng))
    amount = np.clip(amount, 0, 1)[..., None]
    return as_image(np.array([253.0, 251.0, 247.0]) * (1 - amount) + wash * amount)


def pastel_paint(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Chalk rubbed over dark toothed paper that shows between the strokes."""
    flat = np.asarray(blurred(plain(scene, n), 0.006), float)
    chalk = 0.55 * flat + 0.45 * 255
    x, y = coordinates(n)
    strokes = 0.5 + 0.5 * np.sin(2 * np.pi * 14 * (x + 0.6 * y + 0.05 * noise(n, 8, rng)))
    tooth = 0.35 * noise(n, 48, rng) + 0.65 * strokes
    shape = np.asarray(blurred(silhouette(scene, n), 0.01), float) / 255
    cover = np.clip((0.7 + 0.25 * shape - tooth) * 3 + 0.5, 0, 1)[..., None]
    return as_image(np.array([72.0, 66.0, 84.0]) * (1 - cover) + chalk * cover)


def oil_paint(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Short thick strokes, each of one rich colour, laid over one another."""
    source = np.asarray(blurred(plain(scene, n), 0.006), float)
    grey = source.mean(-1, keepdims=True)
    source = np.clip(grey + 1.35 * (source - grey), 0, 255)
    brush = SceneBrush(n, tuple(int(v) for v in source.reshape(-1, 3).mean(0)))  # type: ignore[arg-type]
    flow = 2 * np.pi * noise(n, 4, rng)
    for length, width, count in ((0.12, 0.06, 260), (0.06, 0.026, 1300)):
        places = rng.random((count, 2))
        shade = rng.uniform(0.86, 1.14, count)
        for (x, y), bright in zip(places, shade, strict=True):
            row, column = int(y * n), int(x * n)
            a, colour = flow[row, column], tuple(int(min(255, v * bright)) for v in source[row, column])
            reach = np.array([np.cos(a), np.sin(a)]) * length / 2
            brush.line(np.array([(x, y), (x, y)]) + np.array([-reach, reach]), colour, width)  # type: ignore[arg-type]
    return brush.image


# prints: one ink, tone by what is left out


def inked(cover: np.ndarray, ink: Colour, paper: Colour) -> Image.Image:
    return as_image(np.where(cover[..., None], np.array(ink, float), np.array(paper, float)))


def dot_print(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Dots on a fixed screen, larger where it is darker."""
    x, y = coordinates(n)
    u, v = (x * 16) % 1 - 0.5, (y * 16) % 1 - 0.5
    dots = u**2 + v**2 < (0.74 * np.sqrt(toned(scene, n))) ** 2 * 0.98
    return inked(dots, hsv(rng.uniform(0.93, 1.0), 0.88, 0.74), (250, 240, 222))


def line_print(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Level lines, thicker where it is darker."""
    _, y = coordinates(n)
    lines = np.abs((y * 18) % 1 - 0.5) < 0.06 + 0.43 * toned(scene, n) ** 1.3
    return inked(lines, hsv(rng.uniform(0.93, 1.0), 0.88, 0.74), (250, 240, 222))


def block_print(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """A lino cut: solid ink, the light parts and the contours carved out of it."""
    brush = SceneBrush(n, 255, "L")
    left, right = scene.horizon
    for k in range(4):
        brush.line(poly((0, left + 0.07 * k), (1, right + 0.07 * k)), 0, 0.014)
    for part in scene.parts:
        if not part.stroke:
            brush.fill(part.points, 0 if part.tone in ("main", "light") else 255)
        brush.outline(part, 0, 0.024)
        if part.tone == "main" and not part.stroke:
            inner = part.points.mean(0) + 0.8 * (part.points - part.points.mean(0))
            brush.line(inner, 255, 0.016 * part.weight, closed=True)
    cover = warped(np.asarray(brush.image), 0.008, 20, rng) > 127
    return inked(cover, hsv(rng.uniform(0.93, 1.0), 0.88, 0.74), (250, 240, 222))


# mosaics: pieces of one colour


def tiled(scene: Scene, n: int, owner: np.ndarray, count: int) -> np.ndarray:
    """The scene with each piece (owner: (n, n) of 0..count−1) in its mean colour."""
    flat, index = np.asarray(plain(scene, n), float).reshape(-1, 3), owner.ravel()
    sizes = np.maximum(np.bincount(index, minlength=count), 1)
    means = np.stack([np.bincount(index, flat[:, c], count) / sizes for c in range(3)], 1)
    grey = means.mean(-1, keepdims=True)
    return np.clip(grey + 1.25 * (means - grey), 0, 255)[owner]


@cache
def cells(n: int, side: int, jitter: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A jittered Voronoi pattern, the same for every image: the joints' distance, and the owner of each pixel."""
    rng = np.random.default_rng(seed)
    x, y = coordinates(n)
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side), indexing="xy"), -1) + 0.5
    sites = ((grid + rng.uniform(-jitter, jitter, grid.shape)) / side).reshape(-1, 2)
    distance = np.hypot(x[..., None] - sites[:, 0], y[..., None] - sites[:, 1])
    nearest = np.partition(distance, 1, axis=-1)
    return nearest[..., 1] - nearest[..., 0], distance.argmin(-1)


def pixel_mosaic(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Square tiles, sixteen a side, with dark grout."""
    x, y = coordinates(n)
    owner = (y * 16).astype(int) * 16 + (x * 16).astype(int)
    canvas = tiled(scene, n, owner, 256)
    canvas[np.minimum(x * 16 % 1, y * 16 % 1) < 0.16] = (70, 64, 62)
    return as_image(canvas)


def stone_mosaic(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Uneven stones in pale mortar, each a little lighter or darker."""
    joint, owner = cells(n, 15, 0.36, 11)
    canvas = tiled(scene, n, owner, 225) * rng.uniform(0.84, 1.12, 225)[owner][..., None]
    canvas[joint < 0.013] = (214, 206, 190)
    return as_image(canvas)


def glass_mosaic(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Stained glass: a window of coloured panes between leads, the object leaded in."""
    joint, owner = cells(n, 8, 0.42, 7)
    tint = np.random.default_rng(7).uniform(0.75, 1.2, 64)[owner][..., None]
    panes = {"light": (250, 225, 140), "dark": (30, 26, 34)}
    hue = rng.random()
    brush = SceneBrush(n, hsv(hue, 0.6, 0.62))
    brush.ground(scene.horizon, hsv(hue + rng.uniform(0.3, 0.6), 0.6, 0.5))
    back = np.asarray(brush.image, float) * tint
    back[joint < 0.016] = (22, 20, 24)
    brush.image.paste(as_image(back))
    brush.parts(scene, lambda part: panes.get(part.tone) or deepened(part.colour), (22, 20, 24), 0.026)
    return brush.image


# lines alone


def tubes(scene: Scene, n: int, hue: float, width: float) -> Image.Image:
    tube = {tone: hsv(hue + k * 0.22, 0.8, 1.0) for k, tone in enumerate(("main", "second", "accent", "light", "dark"))}
    lines = SceneBrush(n, (0, 0, 0))
    for part in scene.parts:
        lines.outline(part, tube[part.tone], width)
    return lines.image


def neon_lines(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Thin bright tubes in the dark, with little glow."""
    lines = tubes(scene, n, rng.random(), 0.018)
    core, glow = (np.asarray(blurred(lines, r), float) for r in (0.003, 0.012))
    return as_image(np.array([12.0, 10.0, 26.0]) + 1.1 * core + 0.35 * glow)


def neon_glow(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """The same tubes behind a haze: wide halos, and the object filled with light."""
    hue = rng.random()
    lines, fill = tubes(scene, n, hue, 0.026), SceneBrush(n, (0, 0, 0))
    for k, part in enumerate(p for p in scene.parts if not p.stroke):
        fill.fill(part.points, hsv(hue + 0.07 * k, 0.75, 0.6))
    haze, halo, core = (
        np.asarray(blurred(image, r), float) for image, r in ((fill.image, 0.02), (lines, 0.045), (lines, 0.008))
    )
    return as_image(np.array([30.0, 10.0, 46.0]) + 0.7 * haze + 1.5 * halo + 0.9 * core)


def blueprint_lines(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """White technical lines on blue, over a square grid."""
    x, y = coordinates(n)
    blue = np.array(hsv(rng.uniform(0.59, 0.62), 0.82, rng.uniform(0.5, 0.62)), float)
    grid = (np.minimum(x * 8 % 1, y * 8 % 1) < 0.09)[..., None]
    brush = SceneBrush(n, 0)
    brush.image.paste(as_image(np.where(grid, blue * 0.72 + 0.28 * 255, blue)))
    brush.line(poly((0, scene.horizon[0]), (1, scene.horizon[1])), (190, 205, 235), 0.01)
    for part in scene.parts:
        if not part.stroke:
            brush.fill(part.points, (int(blue[0]), int(blue[1]), int(blue[2])))
        brush.outline(part, (240, 245, 255), 0.019)
    return brush.image


STYLES: dict[str, Callable[[Scene, int, Generator], Image.Image]] = {
    "photo": photo,
    "ink_sketch": ink_sketch,
    "pencil_sketch": pencil_sketch,
    "charcoal_sketch": charcoal_sketch,
    "water_paint": water_paint,
    "pastel_paint": pastel_paint,
    "oil_paint": oil_paint,
    "dot_print": dot_print,
    "line_print": line_print,
    "block_print": block_print,
    "pixel_mosaic": pixel_mosaic,
    "stone_mosaic": stone_mosaic,
    "glass_mosaic": glass_mosaic,
    "neon_lines": neon_lines,
    "neon_glow": neon_glow,
    "blueprint_lines": blueprint_lines,
}
