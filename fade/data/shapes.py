"""Shapes, colours and a brush: what drawn datasets draw with. Coordinates are in [0, 1], y downwards."""

from __future__ import annotations

import colorsys

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Points = np.ndarray  # (N, 2) float


def ellipse(x: float, y: float, rx: float, ry: float, turn: float = 0.0, n: int = 40) -> Points:
    a = np.linspace(0, 2 * np.pi, n, endpoint=False)
    points = np.stack([rx * np.cos(a), ry * np.sin(a)], 1)
    c, s = np.cos(turn), np.sin(turn)
    return points @ np.array([[c, s], [-s, c]]) + (x, y)


def smooth(*corners: tuple[float, float], n: int = 10) -> Points:
    """A closed Catmull-Rom curve through the corners."""
    p = np.array(corners, float)
    before, after, later = np.roll(p, 1, 0), np.roll(p, -1, 0), np.roll(p, -2, 0)
    t = np.linspace(0, 1, n, endpoint=False)[None, :, None]
    a, b, c, d = (q[:, None] for q in (before, p, after, later))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return curve.reshape(-1, 2)


def poly(*corners: tuple[float, float]) -> Points:
    return np.array(corners, float)


def hsv(h: float, s: float, v: float) -> Colour:
    r, g, b = colorsys.hsv_to_rgb(h % 1, s, v)
    return round(255 * r), round(255 * g), round(255 * b)


def deepened(colour: Colour) -> Colour:
    h, s, v = colorsys.rgb_to_hsv(*(c / 255 for c in colour))
    return hsv(h, min(1.0, 1.2 * s + 0.15), 0.88 * v)


class Brush:
    """A canvas of `n` x `n` pixels that takes coordinates in [0, 1]."""

    def __init__(self, n: int, colour: Colour | int, mode: str = "RGB") -> None:
        self.n = n
        self.image = Image.new(mode, (n, n), colour)
        self.draw = ImageDraw.Draw(self.image)

    def at(self, points: Points) -> list[tuple[float, float]]:
        return [(float(x), float(y)) for x, y in points * self.n]

    def fill(self, points: Points, colour: Colour | int) -> None:
        self.draw.polygon(self.at(points), fill=colour)

    def line(self, points: Points, colour: Colour | int, width: float, closed: bool = False) -> None:
        path = self.at(points)
        if closed:
            path = [*path, path[0], path[1]]
        self.draw.line(path, fill=colour, width=max(1, round(width * self.n)), joint="curve")

    def ground(self, horizon: tuple[float, float], colour: Colour | int) -> None:
        """Below a line that is at `horizon` at the left and at the right edge."""
        left, right = horizon
        self.fill(poly((0, left), (1, right), (1, 1), (0, 1)), colour)


def coordinates(n: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:n, 0:n] / n
    return x, y


def blurred(image: Image.Image, radius: float) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(radius * image.width))
