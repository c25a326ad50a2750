"""Draws MiniCanvas: eight objects as parametric vector shapes, each in nine styles.

A scene (pose, size, colours, background) depends on (seed, object, index) alone; a style only paints it. So image k of
every style shows the same scene, as UnlearnCanvas paints {style}/{object}/{k}.jpg from Seed_Images/{object}/{k}.jpg.
Painted at four times the wanted resolution and reduced. Coordinates are in [0, 1], y downwards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.random import Generator
from PIL import Image, ImageChops

from fade.data.shapes import Brush, Colour, Points, blurred, coordinates, deepened, ellipse, hsv, poly, smooth

OVERSAMPLING = 4


@dataclass(frozen=True)
class Part:
    """One filled polygon, or one open stroke, of an object. `tone` says what its colour means."""

    points: Points
    tone: str  # main | second | accent | light | dark
    stroke: bool = False


@dataclass(frozen=True)
class Scene:
    """What is to be seen, before any style: parts from back to front, their colours, a ground line."""

    parts: list[Part]
    colours: dict[str, Colour]
    sky: Colour
    ground: Colour
    horizon: tuple[float, float]  # height at the left and at the right edge


# --- shapes -----------------------------------------------------------------------------------------------------------


def eye(x: float, y: float, r: float, look: float) -> list[Part]:
    return [Part(ellipse(x, y, r, r), "light"), Part(ellipse(x + look * r * 0.3, y, r * 0.5, r * 0.6), "dark")]


def cat(rng: Generator) -> list[Part]:
    w, h, tip = rng.uniform(0.62, 0.78), rng.uniform(0.52, 0.64), rng.uniform(1.02, 1.18)
    look = rng.uniform(-1, 1)
    parts = []
    for s in (-1, 1):
        parts.append(Part(poly((s * w * 0.95, 0.05), (s * w * 0.92, -tip), (s * w * 0.15, -h * 0.72)), "main"))
        parts.append(Part(poly((s * w * 0.82, -0.45), (s * w * 0.82, -tip * 0.84), (s * w * 0.42, -h * 0.9)), "accent"))
    parts.append(
        Part(smooth((-w, 0.1), (-w * 0.55, -h), (w * 0.55, -h), (w, 0.1), (w * 0.5, h), (-w * 0.5, h)), "main")
    )
    for s in (-1, 1):
        parts += eye(s * w * 0.42, -0.1, rng.uniform(0.15, 0.17), look)
    parts.append(Part(poly((-0.1, 0.16), (0.1, 0.16), (0, 0.29)), "accent"))
    for s in (-1, 1):
        for dy in (0.2, 0.36):
            parts.append(Part(poly((s * 0.24, 0.27), (s * (w + 0.22), dy)), "dark", stroke=True))
    return parts


def fish(rng: Generator) -> list[Part]:
    h, tail = rng.uniform(0.36, 0.52), rng.uniform(0.36, 0.52)
    return [
        Part(poly((-0.5, 0), (-1.0, -tail), (-0.84, 0), (-1.0, tail)), "second"),
        Part(smooth((-0.15, -h * 0.8), (0.1, -h * 1.65), (0.4, -h * 0.7), n=6), "second"),
        Part(smooth((-0.1, h * 0.8), (0.0, h * 1.45), (0.25, h * 0.8), n=6), "second"),
        Part(smooth((-0.68, 0), (-0.1, -h), (0.5, -h * 0.85), (0.98, 0), (0.5, h * 0.85), (-0.1, h)), "main"),
        Part(poly((0.0, -0.1), (-0.3, 0.22), (0.12, 0.2)), "accent"),
        *eye(0.58, -0.12, 0.15, 0.5),
    ]


def bird(rng: Generator) -> list[Part]:
    lift, fat = rng.uniform(-0.75, -0.35), rng.uniform(0.36, 0.46)
    legs = [Part(poly((x, 0.4), (x - 0.02, 0.92)), "dark", stroke=True) for x in (-0.12, 0.12)]
    return [
        *legs,
        Part(poly((-0.45, 0.1), (-1.0, -0.22), (-0.98, 0.14)), "second"),
        Part(poly((0.72, -0.5), (1.08, -0.38), (0.72, -0.26)), "accent"),
        Part(smooth((-0.62, 0.02), (-0.1, -fat * 0.6), (0.55, -0.2), (0.5, fat), (-0.15, fat * 1.25)), "main"),
        Part(ellipse(0.5, -0.4, 0.32, 0.3), "main"),
        Part(smooth((-0.42, lift), (0.0, -0.15), (0.26, 0.12), (-0.1, 0.26), (-0.35, 0.1), n=8), "second"),
        *eye(0.56, -0.45, 0.1, 0.6),
    ]


def tree(rng: Generator) -> list[Part]:
    trunk = Part(poly((-0.13, 0.25), (0.13, 0.25), (0.17, 1.0), (-0.17, 1.0)), "second")
    if rng.random() < 0.5:
        w = rng.uniform(0.52, 0.7)
        tiers = [(0.45, w), (0.02, w * 0.8), (-0.4, w * 0.58)]
        return [trunk, *(Part(poly((-x, y), (x, y), (0, y - 0.62)), "main") for y, x in tiers)]
    r = rng.uniform(0.38, 0.46)
    crown = smooth(
        (-r * 1.7, 0.05), (-r * 1.25, -0.62), (0, -1.0), (r * 1.25, -0.62), (r * 1.7, 0.05), (0.3, 0.36), (-0.3, 0.36)
    )
    fruit = [Part(ellipse(x, y, 0.1, 0.1), "accent") for x, y in ((-0.36, -0.3), (0.26, -0.48), (0.22, 0.0))]
    return [trunk, Part(crown, "main"), *fruit]


def flower(rng: Generator) -> list[Part]:
    n, turn, r = int(rng.integers(5, 8)), rng.uniform(0, 2 * np.pi), rng.uniform(0.36, 0.44)
    centre = (0.0, -0.36)
    petals = []
    for k in range(n):
        a = turn + 2 * np.pi * k / n
        x, y = centre[0] + r * np.cos(a), centre[1] + r * np.sin(a)
        petals.append(Part(ellipse(x, y, 0.28, 1.15 * r * np.sin(np.pi / n) + 0.03, a), "main"))
    return [
        Part(poly((-0.05, 0.0), (0.05, 0.0), (0.05, 1.0), (-0.05, 1.0)), "second"),
        Part(smooth((0.04, 0.85), (0.3, 0.42), (0.62, 0.4), (0.4, 0.8), n=6), "second"),
        Part(smooth((-0.04, 0.95), (-0.34, 0.62), (-0.62, 0.62), (-0.4, 0.95), n=6), "second"),
        *petals,
        Part(ellipse(*centre, 0.23, 0.23), "accent"),
    ]


def house(rng: Generator) -> list[Part]:
    w, wall, door = rng.uniform(0.6, 0.74), rng.uniform(-0.15, 0.0), rng.choice([-1, 1])
    x = -door * w * 0.45
    return [
        Part(poly((0.28, -0.95), (0.5, -0.95), (0.5, -0.3), (0.28, -0.3)), "second"),
        Part(poly((-w, wall), (w, wall), (w, 0.9), (-w, 0.9)), "main"),
        Part(poly((-w - 0.2, wall), (0, -0.9), (w + 0.2, wall)), "second"),
        Part(
            poly((door * w * 0.2, 0.9), (door * w * 0.2, 0.3), (door * w * 0.7, 0.3), (door * w * 0.7, 0.9)), "accent"
        ),
        Part(poly((x - 0.2, 0.16), (x + 0.2, 0.16), (x + 0.2, 0.54), (x - 0.2, 0.54)), "light"),
    ]


def car(rng: Generator) -> list[Part]:
    roof, back = rng.uniform(-0.58, -0.44), rng.uniform(-0.62, -0.5)
    wheels = []
    for x in (-0.52, 0.52):
        wheels += [Part(ellipse(x, 0.38, 0.25, 0.25), "dark"), Part(ellipse(x, 0.38, 0.1, 0.1), "light")]
    return [
        Part(poly((back - 0.1, -0.02), (back + 0.12, roof), (0.32, roof), (0.62, -0.02)), "main"),
        Part(poly((back + 0.06, -0.06), (back + 0.2, roof + 0.1), (-0.08, roof + 0.1), (-0.08, -0.06)), "light"),
        Part(poly((0.04, -0.06), (0.04, roof + 0.1), (0.26, roof + 0.1), (0.46, -0.06)), "light"),
        Part(
            smooth((-1.0, 0.34), (-0.97, -0.02), (-0.4, -0.08), (0.5, -0.08), (0.98, 0.06), (1.0, 0.34), (0.0, 0.38)),
            "main",
        ),
        Part(ellipse(0.9, 0.1, 0.08, 0.08), "accent"),
        *wheels,
    ]


def boat(rng: Generator) -> list[Part]:
    top, x = rng.uniform(-1.0, -0.85), rng.uniform(-0.1, 0.1)
    return [
        Part(poly((x - 0.04, top), (x + 0.04, top), (x + 0.04, 0.45), (x - 0.04, 0.45)), "dark"),
        Part(poly((x + 0.1, top + 0.08), (x + 0.75, 0.28), (x + 0.1, 0.28)), "main"),
        Part(poly((x - 0.1, top + 0.25), (x - 0.1, 0.28), (x - 0.62, 0.28)), "accent"),
        Part(poly((-0.95, 0.42), (0.95, 0.42), (0.62, 0.88), (-0.62, 0.88)), "second"),
    ]


OBJECTS: dict[str, Callable[[Generator], list[Part]]] = {
    "bird": bird,
    "boat": boat,
    "car": car,
    "cat": cat,
    "fish": fish,
    "flower": flower,
    "house": house,
    "tree": tree,
}


# --- scenes -----------------------------------------------------------------------------------------------------------


def compose(name: str, rng: Generator) -> Scene:
    """Draw the object's parts, give them colours, turn, size and place them."""
    parts = OBJECTS[name](rng)
    turn, size = rng.uniform(-0.2, 0.2), rng.uniform(0.31, 0.39)
    place = np.array([0.5, 0.5]) + rng.uniform(-0.08, 0.08, 2)
    flip = rng.choice([-1.0, 1.0])
    c, s = np.cos(turn), np.sin(turn)
    matrix = size * np.diag([flip, 1.0]) @ np.array([[c, s], [-s, c]])
    placed = [Part(p.points @ matrix + place, p.tone, p.stroke) for p in parts]
    hue = rng.random()
    green = rng.uniform(0.25, 0.4)
    colours = {
        "main": hsv(green, 0.75, 0.62) if name == "tree" else hsv(hue, rng.uniform(0.6, 0.85), rng.uniform(0.75, 0.95)),
        "second": {"tree": hsv(0.07, 0.6, 0.45), "flower": hsv(green, 0.8, 0.55)}.get(
            name, hsv(hue + rng.uniform(0.2, 0.45), 0.75, 0.7)
        ),
        "accent": hsv(hue + rng.uniform(0.5, 0.75), 0.8, 0.95),
        "light": (245, 245, 235),
        "dark": (35, 32, 40),
    }
    level = rng.uniform(0.6, 0.8)
    return Scene(
        parts=placed,
        colours=colours,
        sky=hsv(rng.random(), rng.uniform(0.12, 0.3), rng.uniform(0.85, 0.98)),
        ground=hsv(rng.random(), rng.uniform(0.25, 0.45), rng.uniform(0.65, 0.85)),
        horizon=(level + rng.uniform(-0.05, 0.05), level + rng.uniform(-0.05, 0.05)),
    )


# --- painting ---------------------------------------------------------------------------------------------------------


class SceneBrush(Brush):
    """A brush that knows what a scene is made of."""

    def parts(self, scene: Scene, colours: dict[str, Colour], line: Colour | None = None, width: float = 0.0) -> None:
        for part in scene.parts:
            if part.stroke:
                self.line(part.points, line or colours[part.tone], max(width, 0.016))
                continue
            self.fill(part.points, colours[part.tone])
            if line is not None:
                self.line(part.points, line, width, closed=True)


def silhouette(scene: Scene, n: int) -> Image.Image:
    brush = SceneBrush(n, 0, "L")
    for part in scene.parts:
        if part.stroke:
            brush.line(part.points, 255, 0.016)
        else:
            brush.fill(part.points, 255)
    return brush.image


def plain(scene: Scene, n: int) -> Image.Image:
    """The scene in its own flat colours: what most styles start from."""
    brush = SceneBrush(n, scene.sky)
    brush.ground(scene.horizon, scene.ground)
    brush.parts(scene, scene.colours)
    return brush.image


def photo(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Soft light from the upper left, a shadow on the ground, a vignette."""
    brush = SceneBrush(n, scene.sky)
    brush.ground(scene.horizon, scene.ground)
    shape = silhouette(scene, n)
    shadow = blurred(ImageChops.offset(shape, round(0.035 * n), round(0.045 * n)), 0.03)
    back = Image.composite(
        Image.new("RGB", (n, n), (40, 38, 50)), blurred(brush.image, 0.008), shadow.point(lambda v: v // 2)
    )
    brush = SceneBrush(n, 0)
    brush.image.paste(back)
    brush.parts(scene, scene.colours)
    x, y = coordinates(n)
    light = 1.12 - 0.45 * np.hypot(x - 0.35, y - 0.3)
    soft = np.asarray(blurred(shape, 0.05), float) / 255
    body = np.asarray(shape, float) / 255
    light = light * (1 - 0.45 * body * np.clip(1 - soft, 0, 1) * 1.6)
    return Image.fromarray(np.clip(np.asarray(brush.image, float) * light[..., None], 0, 255).astype(np.uint8))


def sketch(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Graphite outlines on grey paper, tone by hatching."""
    paper, pencil = (236, 234, 228), (52, 52, 58)
    x, y = coordinates(n)
    hatch = np.abs(((x + y) * 16) % 1 - 0.5) < 0.16
    cross = np.abs(((x - y) * 16) % 1 - 0.5) < 0.16
    brush = SceneBrush(n, paper)
    left, right = scene.horizon
    brush.line(poly((0, left), (1, right)), pencil, 0.012)
    under = y > left + (right - left) * x
    canvas = np.asarray(brush.image, float)
    canvas[under & hatch] = (176, 176, 180)
    brush.image.paste(Image.fromarray(canvas.astype(np.uint8)))
    for part in scene.parts:
        if part.stroke:
            brush.line(part.points, pencil, 0.016)
            continue
        area = SceneBrush(n, 0, "L")
        area.fill(part.points, 255)
        inside = np.asarray(area.image) > 0
        canvas = np.asarray(brush.image, float).copy()
        canvas[inside] = paper
        if part.tone in ("main", "second", "dark"):
            canvas[inside & hatch] = (120, 120, 126)
        if part.tone in ("second", "dark"):
            canvas[inside & cross] = (96, 96, 102)
        brush.image.paste(Image.fromarray(canvas.astype(np.uint8)))
        brush.line(part.points, pencil, 0.018, closed=True)
    return brush.image


def mosaic(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Square tiles, sixteen a side, with dark grout."""
    tiles = plain(scene, n).resize((16, 16), Image.Resampling.BOX)
    colours = np.asarray(tiles, float)
    grey = colours.mean(-1, keepdims=True)
    rich = np.clip(grey + 1.25 * (colours - grey), 0, 255).astype(np.uint8)
    canvas = np.asarray(Image.fromarray(rich).resize((n, n), Image.Resampling.NEAREST)).copy()
    x, y = coordinates(n)
    grout = np.minimum(x * 16 % 1, y * 16 % 1) < 0.18
    canvas[grout] = (70, 64, 62)
    return Image.fromarray(canvas)


def halftone(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """One ink on cream paper: dots on a fixed screen, larger where it is darker."""
    ink = np.array(hsv(rng.uniform(0.93, 1.0), 0.88, 0.72), float)
    brush = SceneBrush(n, (52, 52, 52))
    brush.ground(scene.horizon, (92, 92, 92))
    tone = {"main": (205,) * 3, "second": (175,) * 3, "accent": (140,) * 3, "light": (20,) * 3, "dark": (250,) * 3}
    brush.parts(scene, tone)
    dark = np.asarray(blurred(brush.image.convert("L"), 0.004), float) / 255
    x, y = coordinates(n)
    u, v = (x * 16) % 1 - 0.5, (y * 16) % 1 - 0.5
    dot = u**2 + v**2 < (0.74 * np.sqrt(dark)) ** 2 * 0.98
    canvas = np.where(dot[..., None], ink, np.array([250.0, 240.0, 222.0]))
    return Image.fromarray(canvas.astype(np.uint8))


def watercolor(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Pale washes that bleed over white paper, pigment gathered at the edges."""
    white = Image.new("RGB", (n, n), (252, 250, 246))
    x, y = coordinates(n)
    phase = rng.uniform(0, 2 * np.pi, 4)
    wobble = np.stack(
        [np.sin(19 * y + phase[0]) + np.sin(33 * x + phase[1]), np.sin(21 * x + phase[2]) + np.sin(31 * y + phase[3])]
    )
    rows = np.clip((y + 0.008 * wobble[1]) * n, 0, n - 1).astype(int)
    cols = np.clip((x + 0.008 * wobble[0]) * n, 0, n - 1).astype(int)
    wash = np.asarray(blurred(plain(scene, n), 0.013), float)[rows, cols]
    shape = np.asarray(blurred(silhouette(scene, n), 0.012), float)[rows, cols] / 255
    edge = np.clip(1 - np.abs(shape - 0.55) / 0.3, 0, 1)
    round_ = np.clip(1.25 - 2.2 * np.hypot(x - 0.5, y - 0.5), 0, 1)
    amount = np.clip(0.72 * shape + 0.5 * round_ * (1 - shape) + 0.28 * edge, 0, 1)
    grain = 1 + 0.1 * np.sin(9 * x + 5 * y + phase[0]) * np.sin(7 * y - 4 * x + phase[1])
    amount = np.clip(amount * grain, 0, 1)[..., None]
    canvas = np.asarray(white, float) * (1 - amount) + wash * amount
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def neon(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Glowing tubes in the dark."""
    hue = rng.random()
    tube = {tone: hsv(hue + k * 0.22, 0.8, 1.0) for k, tone in enumerate(("main", "second", "accent", "light", "dark"))}
    lines = SceneBrush(n, (0, 0, 0))
    for part in scene.parts:
        lines.line(part.points, tube[part.tone], 0.024, closed=not part.stroke)
    glow = np.asarray(blurred(lines.image, 0.035), float) * 1.2 + np.asarray(blurred(lines.image, 0.012), float) * 0.5
    core = np.asarray(blurred(lines.image, 0.003), float)
    canvas = np.array([12.0, 8.0, 28.0]) + glow + core + 0.15 * core.mean(-1, keepdims=True)
    return Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))


def blueprint(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """White technical lines on blue, over a square grid."""
    x, y = coordinates(n)
    blue = np.array(hsv(rng.uniform(0.59, 0.62), 0.82, rng.uniform(0.5, 0.62)), float)
    grid = (np.minimum(x * 8 % 1, y * 8 % 1) < 0.09)[..., None]
    brush = SceneBrush(n, 0)
    brush.image.paste(Image.fromarray(np.where(grid, blue * 0.72 + 0.28 * 255, blue).astype(np.uint8)))
    brush.line(poly((0, scene.horizon[0]), (1, scene.horizon[1])), (190, 205, 235), 0.01)
    for part in scene.parts:
        if not part.stroke:
            brush.fill(part.points, (int(blue[0]), int(blue[1]), int(blue[2])))
        brush.line(part.points, (240, 245, 255), 0.019, closed=not part.stroke)
    return brush.image


@cache
def panes(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The lead and the tint of the window: one jittered Voronoi pattern, the same for every image."""
    rng = np.random.default_rng(7)
    x, y = coordinates(n)
    grid = np.stack(np.meshgrid(np.arange(8), np.arange(8), indexing="xy"), -1) + 0.5
    sites = ((grid + rng.uniform(-0.42, 0.42, (8, 8, 2))) / 8).reshape(-1, 2)
    distance = np.hypot(x[..., None] - sites[:, 0], y[..., None] - sites[:, 1])
    nearest = np.partition(distance, 1, axis=-1)
    lead = nearest[..., 1] - nearest[..., 0] < 0.016
    return lead, rng.uniform(0.75, 1.2, len(sites))[distance.argmin(-1)][..., None]


def glass(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Stained glass: one window of coloured panes between leads, the object leaded in."""
    lead, tint = panes(n)
    deep = {tone: deepened(rgb) for tone, rgb in scene.colours.items()}
    deep |= {"light": (250, 225, 140), "dark": (30, 26, 34)}
    hue = rng.random()
    brush = SceneBrush(n, hsv(hue, 0.6, 0.62))
    brush.ground(scene.horizon, hsv(hue + rng.uniform(0.3, 0.6), 0.6, 0.5))
    back = np.asarray(brush.image, float) * tint
    back[lead] = (22, 20, 24)
    brush.image.paste(Image.fromarray(np.clip(back, 0, 255).astype(np.uint8)))
    brush.parts(scene, deep, (22, 20, 24), 0.026)
    return brush.image


def popart(scene: Scene, n: int, rng: Generator) -> Image.Image:
    """Flat loud colours, thick black outlines, a background cut in two."""
    loud = [(255, 45, 120), (255, 222, 20), (0, 190, 235), (255, 110, 20), (110, 45, 190), (120, 215, 40)]
    picked = [loud[i] for i in rng.permutation(6)]
    brush = SceneBrush(n, picked[0])
    if rng.random() < 0.5:
        brush.fill(poly((0, 1), (1, 0), (1, 1)), picked[1])
    else:
        brush.fill(poly((0, 0), (1, 1), (0, 1)), picked[1])
    colours = {
        "main": picked[2],
        "second": picked[3],
        "accent": picked[4],
        "light": (255, 255, 255),
        "dark": (15, 12, 18),
    }
    for part in scene.parts:
        if not part.stroke:
            brush.line(part.points, (15, 12, 18), 0.07, closed=True)
    brush.parts(scene, colours, (15, 12, 18), 0.03)
    return brush.image


STYLES: dict[str, Callable[[Scene, int, Generator], Image.Image]] = {
    "blueprint": blueprint,
    "glass": glass,
    "halftone": halftone,
    "mosaic": mosaic,
    "neon": neon,
    "photo": photo,
    "popart": popart,
    "sketch": sketch,
    "watercolor": watercolor,
}


def paint(style: str, name: str, index: int, seed: int, size: int) -> Image.Image:
    """The image of (style, object, index, seed): RGB, `size` x `size`. The same arguments give the same bytes."""
    key = list(OBJECTS).index(name)
    scene = compose(name, np.random.default_rng([seed, key, index]))
    rng = np.random.default_rng([seed, key, index, 1 + list(STYLES).index(style)])
    return STYLES[style](scene, size * OVERSAMPLING, rng).resize((size, size), Image.Resampling.BOX)
