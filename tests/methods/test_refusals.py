"""What a method cannot use is refused, before any work."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from command import ROOT, SHORT, Command, complaint
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from loops import config_of, unlearner_of

from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request
from fade.errors import BadInput
from fade.methods import Method
from fade.methods.ca import ConceptAblation
from fade.methods.ediff import EraseDiff
from fade.methods.esd import Esd
from fade.methods.fade import Fade
from fade.methods.fade_robust import FadeRobust
from fade.methods.lacu import Lacu
from fade.methods.rece import Rece
from fade.methods.safree import Safree
from fade.methods.salun import SalUn
from fade.methods.seot import Seot
from fade.methods.shs import ScissorHands
from fade.methods.speed import Speed
from fade.methods.spm import Spm
from fade.methods.stereo import Stereo
from fade.methods.task_vector import TaskVector
from fade.methods.uce import Uce
from fade.models import Diffusion

# bad input


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (partial(Esd, eta=-1), "method.eta"),
        (partial(Esd, sampling_steps=0), "method.sampling_steps"),
        (partial(Esd, guidance=-3), "method.guidance"),
        (partial(Esd, variant="new"), "method.variant"),
        (partial(Stereo, sampling_steps=2), "method.sampling_steps"),
        (partial(Stereo, rounds=0), "method.rounds"),
        (partial(Stereo, scale=0.5), "method.scale"),
        (partial(Spm, sampling_steps=0), "method.sampling_steps"),
        (partial(Spm, variant="new"), "method.variant"),
        (partial(Spm, variant="as_released", sampling_steps=1), "method.sampling_steps"),
        (partial(Spm, anchors=0), "method.anchors"),
        (partial(Spm, gate_power=-1), "method.gate_power"),
        (partial(EraseDiff, step=-0.1), "method.step"),
        (partial(EraseDiff, step=math.nan), "method.step"),
        (partial(SalUn, guidance=-1), "method.guidance"),
        (partial(EraseDiff, passes=-1), "method.passes"),
        (partial(EraseDiff, epoch=0), "method.epoch"),
        (partial(ScissorHands, cut=0), "method.cut"),
        (partial(ScissorHands, cut=1), "method.cut"),
        (partial(ScissorHands, "paper"), "method.variant"),
        (partial(ScissorHands, batches=0), "method.batches"),
        (partial(Lacu, others=-1), "method.others"),
        (partial(Lacu, latents="x"), "method.latents"),
        (partial(Lacu, pool=0), "method.pool"),
        (partial(Lacu, mapped="x"), "method.mapped"),
        (partial(Uce, ridge=0), "method.ridge"),
        (partial(Uce, erase=-1), "method.erase"),
        (partial(Uce, preserve=-1), "method.preserve"),
        (partial(Uce, tokens="first"), "method.tokens"),
        (partial(Rece, epochs=-1), "method.epochs"),
        (partial(Rece, regulariser=0), "method.regulariser"),
        (partial(Speed, threshold=0), "method.threshold"),
        (partial(Speed, ridge=0), "method.ridge"),
        (partial(Speed, slack=-1), "method.slack"),
        (partial(Speed, augment=-1), "method.augment"),
        (partial(ConceptAblation, variant="x"), "method.variant"),
        (partial(Fade, saliency="x"), "method.saliency"),
        (partial(Fade, start=0), "method.start"),
        (partial(FadeRobust, attack_steps=0), "method.attack_steps"),
        (partial(FadeRobust, radius=0), "method.radius"),
        (partial(Safree, alpha=-1), "method.alpha"),
        (partial(Safree, share=0), "method.share"),
        (partial(Safree, share=1.5), "method.share"),
        (partial(Safree, slope=0), "method.slope"),
        (partial(TaskVector, alpha=0), "method.alpha"),
        (partial(TaskVector, captions="none"), "method.captions"),
    ],
)
def test_impossible_options_are_refused(make: Callable[[], Method], option: str) -> None:
    with pytest.raises(BadInput, match=option.replace(".", r"\.")):
        make()


@pytest.mark.parametrize(
    ("method", "given", "message"),
    [
        (Uce(), ("lora", "dense", 0), "kind lora"),
        (Uce(), ("patch", "dense", 5), "must be 0"),
        (Uce(), ("matrix", "weight", 0), "cannot be masked"),
        (Seot(), ("text", "neuron", 0), "nothing to mask"),
        (Seot(), ("patch", "dense", 0), "kind patch"),
        (Fade(), ("text", "dense", 5), "kind text"),
        (Fade(), ("lora", "dense", 0), "must be 1 or more"),
        (Fade(start=50), ("patch", "dense", 5), "method.start=null"),
        (FadeRobust(), ("patch", "dense", 5), "method.terms.closed=0"),
        (Fade(), ("lora", "dense", -1), "must be 0 or more"),
        (ScissorHands(), ("lora", "dense", 5), "kind lora"),
        (Spm(), ("patch", "dense", 5), "kind patch"),
        (Esd(), ("patch", "dense", 5, "targeted"), "draws no timesteps"),
        (Spm(), ("lora", "dense", 5, "window"), "draws no timesteps"),
    ],
)
def test_what_a_method_cannot_use_is_refused(method: Method, given: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        method.check(*given)


def test_what_does_not_go_together_is_refused_when_it_is_put_together(
    model: Diffusion, dataset: Canvas, tmp_path: Path
) -> None:
    """Before images are encoded: the pairs are not prepared here."""
    request = Request.of(dataset, "neon_glow", "photo")
    pairs = Pairs(dataset, request, forget=16, retain=64, batch=2, cache=tmp_path)

    def put(name: str, *overrides: str) -> None:
        config = config_of(name, 2, *overrides)
        adapter = instantiate(config.adapter, _convert_="all")(model)
        try:
            unlearner_of(config, model, adapter, pairs, tmp_path / "none")
        finally:
            adapter.detach()

    for name, overrides, message in (
        ("uce", ["adapter.targets=['attn1\\.to_k']"], "keys and values of cross-attention"),
        ("uce", ["adapter.targets=['.']"], "keys and values of cross-attention"),
        ("speed", ["adapter.targets=['.']"], "keys and values of cross-attention"),
        ("salun", ["sparsity=neuron"], "rows and columns of matrices"),
        ("esd", ["sparsity=random"], "rows and columns of matrices"),
        ("fade", ["optimizer.schedule.locate_batch=0"], "locate_batch"),
    ):
        with pytest.raises(BadInput, match=message):
            put(name, *overrides)
    with pytest.raises(InstantiationException, match=r"BadInput\('method\.terms\.forget is -1"):  # Hydra's, around it
        put("fade", "method.terms.forget=-1")
    dataset.says = {"neon_glow": ""}  # a concept of zero tokens
    for name in ("fmn", "seot"):
        with pytest.raises(BadInput, match="does not say"):
            put(name)
    with pytest.raises(BadInput, match=r"pairs\.batch is 0"):
        Pairs(dataset, request, forget=16, retain=64, batch=0, cache=tmp_path)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=salun", "sparsity=neuron"], "rows and columns of matrices"),
        (["method=uce", "adapter=lora"], "kind lora"),
        (["method=uce", "trainer.max_steps=0", "adapter.targets=['.']"], "keys and values of cross-attention"),
        (["method=esd", "timesteps=window"], "draws no timesteps"),
        (["method=esd", "method.eta=-1"], "method.eta is -1"),
        (["method=ca", "optimizer.build.lr=-1"], "optimizer.build.lr is -1"),
        (["method=seot", "sparsity=weight"], "nothing to mask"),
    ],
)
def test_run_says_so_in_one_line_before_any_work(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    overrides: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(ROOT)
    given = {override.split("=")[0] for override in overrides}
    short = [override for override in SHORT if override.split("=")[0] not in given]
    done = Command(tmp_path, monkeypatch, capsys)(*short, *overrides, code=1)
    assert message in complaint(done)
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".png", ".jpg", ".safetensors")]
