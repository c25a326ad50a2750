"""What is to be seen, before any style: an object's parts in their place, their colours, sky and ground.

A scene depends on (seed, objects, index) alone; a style only paints it. So image k of every style shows the same scene,
as UnlearnCanvas paints {style}/{object}/{k}.jpg from Seed_Images/{object}/{k}.jpg. It holds one object, or two side by
side. Coordinates are in [0, 1], y downwards."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.random import Generator

from fade.data.shapes import Colour, Points, ellipse, hsv, poly


@dataclass(frozen=True)
class Part:
    """One filled polygon, or one open stroke, of an object. `tone` says what its colour means: main, second, accent,
    light, dark; `colour` is the one it has in its scene, and `weight` thins the lines of what is drawn smaller."""

    points: Points
    tone: str
    stroke: bool = False
    colour: Colour = (0, 0, 0)
    weight: float = 1.0


@dataclass(frozen=True)
class Thing:
    """draw: its parts, from back to front, in [-1, 1]. hues: of the tones that are its own, the others are free."""

    draw: Callable[[Generator], list[Part]]
    hues: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Spot:
    """Where a thing stands: its middle, how far that may move, its size (half its side), from and to, its lines'
    weight."""

    x: float
    y: float
    move: tuple[float, float]
    size: tuple[float, float]
    weight: float


MIDDLE = Spot(0.5, 0.51, (0.07, 0.07), (0.33, 0.41), 1.0)
LEFT, RIGHT = (Spot(x, 0.53, (0.015, 0.08), (0.215, 0.245), 0.65) for x in (0.255, 0.745))


@dataclass(frozen=True)
class Scene:
    """parts: from back to front. horizon: height of the ground at the left and at the right edge."""

    parts: list[Part]
    sky: Colour
    ground: Colour
    horizon: tuple[float, float]


def box(left: float, top: float, right: float, bottom: float) -> Points:
    return poly((left, top), (right, top), (right, bottom), (left, bottom))


def eye(x: float, y: float, r: float, look: float = 0.0) -> list[Part]:
    return [Part(ellipse(x, y, r, r), "light"), Part(ellipse(x + look * r * 0.3, y, r * 0.55, r * 0.65), "dark")]


def coloured(rng: Generator, hues: dict[str, float]) -> dict[str, Colour]:
    """A palette whose hues are free but for those that the object itself has (a tree's green)."""
    hue = rng.random()
    free = {"main": hue, "second": hue + rng.uniform(0.2, 0.45), "accent": hue + rng.uniform(0.5, 0.75)}
    own = {tone: hues[tone] + rng.uniform(-0.035, 0.035) if tone in hues else value for tone, value in free.items()}
    return {
        "main": hsv(own["main"], rng.uniform(0.6, 0.85), rng.uniform(0.7, 0.92)),
        "second": hsv(own["second"], rng.uniform(0.6, 0.8), rng.uniform(0.55, 0.75)),
        "accent": hsv(own["accent"], 0.8, 0.95),
        "light": (245, 245, 235),
        "dark": (35, 32, 40),
    }


def placed(parts: list[Part], spot: Spot, rng: Generator) -> list[Part]:
    """Turned a little, sized, mirrored or not, and put somewhere near the spot."""
    turn, size = rng.uniform(-0.18, 0.18), rng.uniform(*spot.size)
    place = np.array([spot.x, spot.y]) + rng.uniform(-1, 1, 2) * spot.move
    c, s = np.cos(turn), np.sin(turn)
    matrix = size * np.diag([rng.choice([-1.0, 1.0]), 1.0]) @ np.array([[c, s], [-s, c]])
    return [replace(part, points=part.points @ matrix + place) for part in parts]


def standing(thing: Thing, spot: Spot, rng: Generator) -> list[Part]:
    """The thing's parts in their place, in their colours."""
    parts = placed(thing.draw(rng), spot, rng)
    colours = coloured(rng, thing.hues)
    return [replace(part, colour=colours[part.tone], weight=spot.weight) for part in parts]


def compose(things: list[Thing], rng: Generator) -> Scene:
    """One thing in the middle, or two: the first at the left, the second at the right."""
    level = rng.uniform(0.6, 0.8)
    spots = [MIDDLE] if len(things) == 1 else [LEFT, RIGHT]
    return Scene(
        parts=[part for thing, spot in zip(things, spots, strict=True) for part in standing(thing, spot, rng)],
        sky=hsv(rng.random(), rng.uniform(0.12, 0.3), rng.uniform(0.85, 0.98)),
        ground=hsv(rng.random(), rng.uniform(0.25, 0.45), rng.uniform(0.65, 0.85)),
        horizon=(level + rng.uniform(-0.05, 0.05), level + rng.uniform(-0.05, 0.05)),
    )
