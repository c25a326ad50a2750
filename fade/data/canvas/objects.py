"""Sixteen objects in eight families of two, as parametric shapes in [-1, 1], y downwards.

The two of a family share a body plan and a word, and differ by a few marks: what makes one of them hard to forget
alone."""

from __future__ import annotations

import numpy as np
from numpy.random import Generator

from fade.data.canvas.scene import Part, Thing, box, eye
from fade.data.shapes import ellipse, poly, smooth

# cats: a face with whiskers; pointed ears, or round ones, a mane and stripes


def face(w: float, h: float, look: float, rng: Generator) -> list[Part]:
    parts = [Part(smooth((-w, 0.1), (-w * 0.55, -h), (w * 0.55, -h), (w, 0.1), (w * 0.5, h), (-w * 0.5, h)), "main")]
    for s in (-1, 1):
        parts += eye(s * w * 0.42, -0.1, rng.uniform(0.15, 0.17), look)
    parts.append(Part(poly((-0.11, 0.16), (0.11, 0.16), (0, 0.3)), "accent"))
    whiskers = [(s, dy) for s in (-1, 1) for dy in (0.2, 0.38)]
    return parts + [Part(poly((s * 0.24, 0.27), (s * (w + 0.24), dy)), "dark", stroke=True) for s, dy in whiskers]


def house_cat(rng: Generator) -> list[Part]:
    w, h, tip = rng.uniform(0.62, 0.76), rng.uniform(0.52, 0.62), rng.uniform(1.02, 1.16)
    ears = []
    for s in (-1, 1):
        ears.append(Part(poly((s * w * 0.95, 0.05), (s * w * 0.92, -tip), (s * w * 0.15, -h * 0.72)), "main"))
        ears.append(Part(poly((s * w * 0.82, -0.45), (s * w * 0.82, -tip * 0.84), (s * w * 0.42, -h * 0.9)), "accent"))
    return ears + face(w, h, rng.uniform(-1, 1), rng)


def wild_cat(rng: Generator) -> list[Part]:
    w, h = rng.uniform(0.58, 0.68), rng.uniform(0.52, 0.6)
    n, turn = int(rng.integers(13, 17)), rng.uniform(0, 1)
    a = (np.arange(2 * n) + turn) * np.pi / n
    reach = np.where(np.arange(2 * n) % 2 == 0, 1.0, 0.78)
    mane = Part(np.stack([1.02 * reach * np.cos(a), 0.02 + 0.98 * reach * np.sin(a)], 1), "second")
    ears = []
    for s in (-1, 1):
        ears += [
            Part(ellipse(s * 0.56, -0.62, 0.24, 0.24), "main"),
            Part(ellipse(s * 0.56, -0.62, 0.13, 0.13), "accent"),
        ]
    stripes = [
        Part(poly((x - 0.05, -h * 0.98), (x + 0.05, -h * 0.98), (x * 0.9, -0.3)), "dark") for x in (-0.22, 0.0, 0.22)
    ]
    stripes += [
        Part(poly((s * w, 0.02 + dy), (s * w, 0.12 + dy), (s * w * 0.68, 0.07 + dy)), "dark")
        for s in (-1, 1)
        for dy in (-0.1, 0.12)
    ]
    return [mane, *ears, *face(w, h, rng.uniform(-1, 1), rng), *stripes]


# in the sea: scales and fins, or a great belly, a fluke and a spout


def sea_fish(rng: Generator) -> list[Part]:
    h, tail = rng.uniform(0.38, 0.52), rng.uniform(0.38, 0.52)
    scales = [
        Part(ellipse(x, y, 0.09, 0.09), "accent")
        for x, y in ((-0.22, -0.12), (-0.22, 0.14), (0.02, 0.01), (0.2, 0.2), (0.2, -0.2))
    ]
    return [
        Part(poly((-0.5, 0), (-1.0, -tail), (-0.84, 0), (-1.0, tail)), "second"),
        Part(smooth((-0.15, -h * 0.8), (0.1, -h * 1.65), (0.4, -h * 0.7), n=6), "second"),
        Part(smooth((-0.1, h * 0.8), (0.0, h * 1.45), (0.25, h * 0.8), n=6), "second"),
        Part(smooth((-0.68, 0), (-0.1, -h), (0.5, -h * 0.85), (0.98, 0), (0.5, h * 0.85), (-0.1, h)), "main"),
        *scales,
        *eye(0.62, -0.12, 0.14, 0.5),
    ]


def sea_whale(rng: Generator) -> list[Part]:
    fat, lift = rng.uniform(0.46, 0.56), rng.uniform(0.5, 0.7)
    spout = [Part(poly((0.42, -fat * 0.9), (0.42 + dx, -1.0)), "second", stroke=True) for dx in (-0.2, 0.0, 0.2)]
    return [
        *spout,
        Part(
            smooth((-0.74, -0.05), (-1.05, -lift), (-0.72, -lift * 0.55), (-0.42, -lift * 1.05), (-0.56, -0.02), n=8),
            "second",
        ),
        Part(
            smooth((-0.8, -0.12), (-0.3, -0.16), (0.3, -fat), (0.95, -0.1), (0.8, fat * 0.75), (0.0, fat), (-0.5, 0.3)),
            "main",
        ),
        Part(smooth((-0.3, 0.34), (0.3, 0.26), (0.9, 0.18), (0.72, fat * 0.72), (0.05, fat * 0.92), n=8), "light"),
        Part(smooth((0.05, 0.2), (0.32, 0.28), (0.12, 0.66), n=6), "second"),
        Part(ellipse(0.66, -0.06, 0.07, 0.07), "dark"),
    ]


# birds: perched on two legs, or swimming with a flat bill


def song_bird(rng: Generator) -> list[Part]:
    lift, fat = rng.uniform(-0.75, -0.4), rng.uniform(0.36, 0.46)
    legs = [Part(poly((x, 0.4), (x - 0.02, 0.92)), "dark", stroke=True) for x in (-0.12, 0.14)]
    return [
        *legs,
        Part(poly((-0.45, 0.1), (-1.0, -0.24), (-0.98, 0.16)), "second"),
        Part(poly((0.74, -0.52), (1.1, -0.38), (0.74, -0.26)), "accent"),
        Part(smooth((-0.62, 0.02), (-0.1, -fat * 0.6), (0.55, -0.2), (0.5, fat), (-0.15, fat * 1.25)), "main"),
        Part(ellipse(0.5, -0.4, 0.33, 0.31), "main"),
        Part(smooth((-0.42, lift), (0.0, -0.15), (0.26, 0.12), (-0.1, 0.26), (-0.35, 0.1), n=8), "second"),
        *eye(0.57, -0.45, 0.11, 0.6),
    ]


def water_bird(rng: Generator) -> list[Part]:
    neck, rise = rng.uniform(-0.8, -0.62), rng.uniform(0.1, 0.2)
    along, ripple = np.linspace(-1, 1, 25), 0.06 * np.sin(np.linspace(0, 5 * np.pi, 25))
    waves = [Part(np.stack([along, y + ripple], 1), "second", stroke=True) for y in (0.66, 0.84)]
    return [
        Part(
            smooth((-0.95, -rise), (-0.5, 0.06), (0.2, 0.02), (0.62, 0.1), (0.6, 0.5), (-0.1, 0.64), (-0.7, 0.44)),
            "main",
        ),
        Part(smooth((0.28, 0.2), (0.3, neck + 0.1), (0.62, neck), (0.66, 0.2), n=8), "main"),
        Part(smooth((0.74, neck - 0.02), (1.08, neck + 0.08), (1.1, neck + 0.18), (0.74, neck + 0.16), n=6), "accent"),
        Part(ellipse(0.5, neck, 0.3, 0.25), "main"),
        Part(box(0.31, neck + 0.28, 0.65, neck + 0.38), "light"),
        Part(smooth((-0.6, 0.12), (0.0, 0.1), (0.3, 0.26), (-0.05, 0.44), (-0.45, 0.36), n=8), "second"),
        *eye(0.57, neck - 0.04, 0.09, 0.6),
        *waves,
    ]


# on wheels: a low body with a cabin, or a long box with a row of windows


def wheels(*places: float, y: float = 0.4, r: float = 0.24) -> list[Part]:
    return [Part(ellipse(x, y, size, size), tone) for x in places for size, tone in ((r, "dark"), (r * 0.42, "light"))]


def city_car(rng: Generator) -> list[Part]:
    roof, back = rng.uniform(-0.58, -0.46), rng.uniform(-0.62, -0.52)
    return [
        Part(poly((back - 0.1, -0.02), (back + 0.12, roof), (0.32, roof), (0.62, -0.02)), "main"),
        Part(poly((back + 0.06, -0.06), (back + 0.2, roof + 0.1), (-0.08, roof + 0.1), (-0.08, -0.06)), "light"),
        Part(poly((0.04, -0.06), (0.04, roof + 0.1), (0.26, roof + 0.1), (0.46, -0.06)), "light"),
        Part(
            smooth((-1.0, 0.34), (-0.97, -0.02), (-0.4, -0.08), (0.5, -0.08), (0.98, 0.06), (1.0, 0.34), (0.0, 0.38)),
            "main",
        ),
        Part(ellipse(0.9, 0.1, 0.09, 0.09), "accent"),
        *wheels(-0.52, 0.52, y=0.38),
    ]


def city_bus(rng: Generator) -> list[Part]:
    top, left = rng.uniform(-0.68, -0.56), -1.0
    panes = [Part(box(x, top + 0.14, x + 0.3, -0.08), "light") for x in (-0.9, -0.52, -0.14)]
    return [
        Part(smooth((left, 0.36), (left, top + 0.06), (0.9, top), (1.0, 0.0), (1.0, 0.38), n=4), "main"),
        Part(box(left + 0.02, 0.06, 0.98, 0.18), "second"),
        *panes,
        Part(box(0.28, top + 0.14, 0.52, 0.36), "dark"),
        Part(poly((0.62, top + 0.14), (0.84, top + 0.14), (0.92, -0.04), (0.62, -0.04)), "light"),
        Part(ellipse(0.93, 0.26, 0.07, 0.07), "accent"),
        *wheels(-0.58, 0.64, y=0.42, r=0.22),
    ]


# boats: a hull under two sails, or under a cabin with a smoking funnel


def sail_boat(rng: Generator) -> list[Part]:
    top, x = rng.uniform(-1.0, -0.86), rng.uniform(-0.1, 0.1)
    return [
        Part(box(x - 0.04, top, x + 0.04, 0.45), "dark"),
        Part(poly((x + 0.1, top + 0.08), (x + 0.78, 0.28), (x + 0.1, 0.28)), "main"),
        Part(poly((x - 0.1, top + 0.25), (x - 0.1, 0.28), (x - 0.62, 0.28)), "accent"),
        Part(poly((-0.95, 0.42), (0.95, 0.42), (0.62, 0.88), (-0.62, 0.88)), "second"),
    ]


def steam_boat(rng: Generator) -> list[Part]:
    x, drift = rng.uniform(-0.14, 0.06), rng.uniform(0.2, 0.34)
    smoke = [
        Part(ellipse(x + 0.1 + k * drift, -0.86 - 0.05 * k, 0.12 + 0.05 * k, 0.1 + 0.04 * k), "light") for k in range(3)
    ]
    return [
        *smoke,
        Part(box(x - 0.12, -0.72, x + 0.16, 0.0), "accent"),
        Part(box(x - 0.12, -0.56, x + 0.16, -0.44), "dark"),
        Part(box(-0.56, -0.06, 0.52, 0.44), "main"),
        *[Part(ellipse(c, 0.18, 0.1, 0.1), "light") for c in (-0.36, -0.02, 0.32)],
        Part(poly((-0.95, 0.42), (0.95, 0.42), (0.62, 0.88), (-0.62, 0.88)), "second"),
    ]


# of stone: a gable roof and a door, or towers with battlements and a gate


def courses(left: float, right: float, top: float, bottom: float) -> list[Part]:
    """Two joints between stones."""
    rows = [top + (bottom - top) * share for share in (0.36, 0.7)]
    return [Part(poly((left, y), (right, y)), "dark", stroke=True) for y in rows]


def stone_house(rng: Generator) -> list[Part]:
    w, wall, door = rng.uniform(0.62, 0.74), rng.uniform(-0.15, -0.02), rng.choice([-1, 1])
    x = -door * w * 0.45
    left, right = sorted((door * w * 0.2, door * w * 0.7))
    return [
        Part(box(0.28, -0.95, 0.5, -0.3), "second"),
        Part(box(-w, wall, w, 0.9), "main"),
        *courses(-w, w, wall, 0.9),
        Part(poly((-w - 0.2, wall), (0, -0.92), (w + 0.2, wall)), "second"),
        Part(box(left, 0.3, right, 0.9), "accent"),
        Part(box(x - 0.2, 0.12, x + 0.2, 0.52), "light"),
    ]


def stone_castle(rng: Generator) -> list[Part]:
    tower, keep = rng.uniform(-0.72, -0.6), rng.uniform(-0.24, -0.12)
    parts = [Part(box(-0.6, keep, 0.6, 0.9), "main"), *courses(-0.6, 0.6, keep, 0.9)]
    parts += [Part(box(x, keep - 0.14, x + 0.18, keep + 0.02), "main") for x in (-0.42, -0.09, 0.24)]
    for s in (-1, 1):
        left, right = sorted((s * 0.94, s * 0.5))
        parts.append(Part(box(left, tower, right, 0.9), "second"))
        parts += [
            Part(box(left + k * 0.165, tower - 0.16, left + k * 0.165 + 0.11, tower + 0.02), "second") for k in range(3)
        ]
        parts.append(
            Part(box((left + right) / 2 - 0.06, tower + 0.26, (left + right) / 2 + 0.06, tower + 0.52), "dark")
        )
    flag = [
        Part(poly((0.72, tower - 0.14), (0.72, -1.05)), "dark", stroke=True),
        Part(poly((0.72, -1.05), (1.02, -0.95), (0.72, -0.85)), "accent"),
    ]
    gate = smooth((-0.22, 0.92), (-0.22, 0.46), (0.0, 0.26), (0.22, 0.46), (0.22, 0.92), n=5)
    return [*flag, *parts, Part(gate, "dark")]


# trees: three tiers on a straight trunk, or fronds on a bent one


def pine_tree(rng: Generator) -> list[Part]:
    w, lift = rng.uniform(0.56, 0.72), rng.uniform(0.58, 0.68)
    tiers = [(0.5, w), (0.06, w * 0.8), (-0.36, w * 0.58)]
    return [
        Part(box(-0.12, 0.4, 0.12, 1.0), "second"),
        *(Part(poly((-x, y), (x, y), (0, y - lift)), "main") for y, x in tiers),
    ]


def palm_tree(rng: Generator) -> list[Part]:
    bend, top = rng.uniform(0.12, 0.3), -0.42
    trunk = Part(
        smooth((-0.3, 1.0), (-0.14, 0.3), (bend - 0.08, top), (bend + 0.08, top), (0.08, 0.3), (-0.04, 1.0), n=6),
        "second",
    )
    fronds = []
    for a in np.linspace(-0.15, np.pi + 0.15, 6) + rng.uniform(-0.08, 0.08, 6):
        tip = (bend + 0.82 * np.cos(a), top - 0.5 * np.sin(a) + 0.2)
        middle = (bend + 0.46 * np.cos(a), top - 0.56 * np.sin(a) - 0.1)
        under = (bend + 0.4 * np.cos(a), top - 0.32 * np.sin(a) + 0.04)
        fronds.append(Part(smooth((bend, top), middle, tip, under, n=6), "main"))
    nuts = [Part(ellipse(bend + x, top + 0.1, 0.09, 0.09), "accent") for x in (-0.1, 0.1)]
    return [trunk, *fronds, *nuts]


# in the garden: petals on a stalk with leaves, or a spotted cap on a stem


def garden_flower(rng: Generator) -> list[Part]:
    n, turn, r = int(rng.integers(5, 8)), rng.uniform(0, 2 * np.pi), rng.uniform(0.38, 0.45)
    angles = turn + 2 * np.pi * np.arange(n) / n
    petals = [
        Part(ellipse(r * np.cos(a), -0.36 + r * np.sin(a), 0.29, 1.15 * r * np.sin(np.pi / n) + 0.03, a), "main")
        for a in angles
    ]
    return [
        Part(box(-0.05, 0.0, 0.05, 1.0), "second"),
        Part(smooth((0.04, 0.85), (0.3, 0.42), (0.62, 0.4), (0.4, 0.8), n=6), "second"),
        Part(smooth((-0.04, 0.95), (-0.34, 0.62), (-0.62, 0.62), (-0.4, 0.95), n=6), "second"),
        *petals,
        Part(ellipse(0.0, -0.36, 0.24, 0.24), "accent"),
    ]


def garden_mushroom(rng: Generator) -> list[Part]:
    w, top = rng.uniform(0.78, 0.92), rng.uniform(-0.8, -0.68)
    spots = [
        Part(ellipse(x * w, y, r, r * 0.85), "light")
        for x, y, r in ((-0.48, -0.1, 0.12), (0.0, -0.42, 0.16), (0.5, -0.12, 0.13))
    ]
    grass = [
        Part(poly((x, 0.95), (x + d, 0.6)), "second", stroke=True)
        for x, d in ((-0.5, -0.12), (-0.4, 0.06), (0.44, 0.1), (0.54, -0.06))
    ]
    return [
        *grass,
        Part(smooth((-0.22, 0.1), (0.22, 0.1), (0.3, 0.86), (0.0, 0.96), (-0.3, 0.86), n=6), "accent"),
        Part(smooth((-w, 0.14), (-w * 0.8, -0.34), (0.0, top), (w * 0.8, -0.34), (w, 0.14), (0.0, 0.24)), "main"),
        *spots,
    ]


OBJECTS: dict[str, Thing] = {
    "house_cat": Thing(house_cat),
    "wild_cat": Thing(wild_cat, {"main": 0.1, "second": 0.07}),
    "sea_fish": Thing(sea_fish),
    "sea_whale": Thing(sea_whale, {"main": 0.6, "second": 0.56}),
    "song_bird": Thing(song_bird),
    "water_bird": Thing(water_bird, {"second": 0.56, "accent": 0.11}),
    "city_car": Thing(city_car),
    "city_bus": Thing(city_bus),
    "sail_boat": Thing(sail_boat),
    "steam_boat": Thing(steam_boat),
    "stone_house": Thing(stone_house),
    "stone_castle": Thing(stone_castle),
    "pine_tree": Thing(pine_tree, {"main": 0.36, "second": 0.07}),
    "palm_tree": Thing(palm_tree, {"main": 0.33, "second": 0.08}),
    "garden_flower": Thing(garden_flower, {"second": 0.33}),
    "garden_mushroom": Thing(garden_mushroom, {"second": 0.33, "accent": 0.12}),
}
