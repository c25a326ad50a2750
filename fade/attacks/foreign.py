"""What others do without looking at the unlearned model: a LoRA of the concept made on the base and put on top of it,
and the change put on a base that was fine-tuned on something else."""

from __future__ import annotations

from fade.attacks import Scene
from fade.attacks.benign import Benign
from fade.attacks.relearn import Relearn
from fade.models import Diffusion


class Foreign(Relearn):
    """T3: as Relearn, a LoRA over the base, which is attached beside the change as it is. `never` says what such a LoRA
    can bring in that was never there."""

    def learner(self, scene: Scene) -> Diffusion:
        return scene.base


class PutBack(Benign):
    """T3: as Benign, over the base, whose new weights then get the same change: W_0 + ΔW_benign + ΔW. No attacker: an
    adapter is used on another version of the pipeline than it was made for."""

    def learner(self, scene: Scene) -> Diffusion:
        return scene.base
