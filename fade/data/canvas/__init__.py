"""A grid of sixteen styles and sixteen objects in families of look-alikes, which the project draws itself."""

from __future__ import annotations

import numpy as np
from PIL import Image

from fade.data.canvas.objects import OBJECTS
from fade.data.canvas.scene import compose
from fade.data.canvas.styles import STYLES

OVERSAMPLING = 4


def paint(style: str, name: str, index: int, seed: int, size: int) -> Image.Image:
    """The image of (style, object, index, seed): RGB, `size` x `size`. The same arguments give the same bytes."""
    key, thing = list(OBJECTS).index(name), OBJECTS[name]
    rng = np.random.default_rng([seed, key, index])
    scene = compose(thing.draw(rng), thing.hues, rng)
    brush = np.random.default_rng([seed, key, index, 1 + list(STYLES).index(style)])
    return STYLES[style](scene, size * OVERSAMPLING, brush).resize((size, size), Image.Resampling.BOX)
