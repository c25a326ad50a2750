"""A grid of sixteen styles and sixteen objects in families of look-alikes, which the project draws itself."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.scene import compose
from fade.data.canvas.styles import STYLES

OVERSAMPLING = 4


def paint(style: str, names: list[str], index: int, seed: int, size: int) -> Image.Image:
    """The image of (style, objects, index, seed): RGB, `size` x `size`. names: one object, or two: left and right. The
    same arguments give the same bytes."""
    key = scene_key(names)
    scene = compose([OBJECTS[name] for name in names], np.random.default_rng([seed, key, index]))
    brush = np.random.default_rng([seed, key, index, 1 + list(STYLES).index(style)])
    return STYLES[style](scene, size * OVERSAMPLING, brush).resize((size, size), Image.Resampling.BOX)


def scene_key(names: list[str]) -> int:
    """One number for each choice of one object or two: 0..15, then 16..271."""
    places = [list(OBJECTS).index(name) for name in names]
    return places[0] if len(places) == 1 else len(OBJECTS) * (1 + places[0]) + places[1]
