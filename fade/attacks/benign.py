"""Fine-tuning on other concepts, with no attacker in sight: it alone brings concepts back (arXiv 2410.08074)."""

from __future__ import annotations

from torch import Tensor

from fade.attacks import Scene, spread
from fade.attacks.relearn import Relearn
from fade.errors import BadInput


class Benign(Relearn):
    """As Relearn, on images of neither the target nor its surrogate."""

    shown = False

    def examples(self, scene: Scene) -> tuple[Tensor, list[str]]:
        request, dataset = scene.request, scene.dataset
        apart = {request.target, request.surrogate}
        cells = [cell for cell in dataset.cells() if cell[request.domain] not in apart]
        items = spread(dataset.items("train"), dataset, cells)[:: max(1, len(cells) // self.images)][: self.images]
        if not items:
            raise BadInput(f"{dataset.name} has no images of anything but {' and '.join(sorted(apart))}")
        latents = scene.model.encode(dataset.images(items, scene.model.size).float() / 255)
        return latents, [scene.prompt(dataset.cell(item)) for item in items]
