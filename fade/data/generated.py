"""Images that the pipeline itself makes of the concept, its surrogate and what is to be kept: no dataset is needed."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image

from fade.console import Stage
from fade.data.dataset import Dataset, Item
from fade.data.prompts import Cell
from fade.errors import BadInput
from fade.files import content_hash
from fade.models import Diffusion, Noise

WHOLE = "{}"  # the template of a prompt that is kept as it is


class Generated(Dataset):
    """One domain, `concept`: the words that go into each template. The prompts of `retain` are cells of their own.

    images: of each caption. `make` draws them all; nothing is read or written. Raises BadInput for a template without
    exactly one {} and for words that are empty or the same.
    """

    def __init__(
        self, concept: str, surrogate: str, templates: Sequence[str], retain: Sequence[str], images: int, seed: int = 0
    ) -> None:
        odd = [template for template in templates if template.count("{}") != 1]
        if odd or not templates:
            raise BadInput(
                f"template {odd[0]!r} needs exactly one {{}}" if odd else "give at least one template, with one {}"
            )
        if not concept.strip() or not surrogate.strip() or concept == surrogate:
            raise BadInput(f"concept {concept!r} and surrogate {surrogate!r} must be words, and not the same")
        if images < 1:
            raise BadInput(f"images is {images}; each caption needs one or more")
        self.kept = [prompt for prompt in dict.fromkeys(retain) if prompt not in (concept, surrogate)]
        domains = {"concept": [concept, surrogate, *self.kept], "template": [*templates, WHOLE]}
        super().__init__(domains, "{concept}{template}", {"concept": surrogate})
        self.name, self.templates, self.per_cell, self.seed = "generated", list(templates), images, seed
        self.pixels = torch.empty(0)

    def cells(self) -> list[Cell]:
        """Concept and surrogate in every template, then the kept prompts."""
        words = [{"concept": word, "template": t} for word in self.domains["concept"][:2] for t in self.templates]
        return words + [{"concept": prompt, "template": WHOLE} for prompt in self.kept]

    def caption(self, cell: Cell) -> str:
        return cell["template"].replace("{}", cell["concept"])

    def items(self, split: str) -> list[Item]:
        if split != "train":
            return []
        return [
            Item((cell["concept"], cell["template"]), self.seed + k, row=i * self.per_cell + k)
            for i, cell in enumerate(self.cells())
            for k in range(self.per_cell)
        ]

    def image(self, item: Item, size: int) -> Image.Image:
        """The image as it was made; `size` is the pipeline's own."""
        return Image.fromarray(self.pixels[item.row].permute(1, 2, 0).numpy())

    def make(self, model: Diffusion, batch: int = 8) -> None:
        """Draw every image, (N, 3, H, W) uint8, with the noise of seed + number."""
        items = self.items("train")
        parts, stage = [], Stage("images", len(items), "while making images")
        for start in range(0, len(items), batch):
            part = items[start : start + batch]
            prompts = [self.caption(self.cell(item)) for item in part]
            parts.append((model.generate(prompts, [Noise(item.index) for item in part]) * 255).round().byte())
            stage.done(start + len(part))
        self.pixels = torch.cat(parts)
        self.name = f"generated-{content_hash([model.sha256(), model.steps, model.guidance, self.cells()])}"
