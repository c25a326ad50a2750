"""The published sizes, from their public configurations on the meta device: what the presets' names find there."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from omegaconf import OmegaConf

from benchmarks.runs.architectures import ARCHITECTURES, SANA_600M, sana, without_weights
from fade.adapters.lora import Lora
from fade.models import Diffusion
from fade.published import CONF, names, published

pytestmark = pytest.mark.slow

# What each model's authors say of it, in billions: the denoiser, and what else they count.
SAID = {
    "sd15": (0.86, {"text_encoder": 0.123}),  # model card of Stable Diffusion v1: 860 M, 123 M
    "sdxl": (2.6, {"text_encoder": 0.817}),  # arXiv 2307.01952, table 1: 2.6 B, both encoders 817 M
    "sd35_medium": (2.5, {"text_encoder_3": 4.7}),  # model card: 2.5 B; arXiv 2403.03206: T5-XXL's 4.7 B
    "flux_dev": (12, {"text_encoder_2": 4.7}),  # model card: 12 B
    "sana": (1.6, {"text_encoder": 2.6}),  # arXiv 2410.10629: 1.6 B; Gemma 2 2B's report: 2.6 B
}
SIZES = {
    # the denoiser's parameters, candidate layers, candidate weights, a rank-4 adapter's numbers
    "sd15": (859_520_964, 128, 93_511_680, 797_184),
    "sdxl": (2_567_463_684, 560, 955_187_200, 5_806_080),
    "sd35_medium": (2_243_171_520, 242, 570_949_632, 2_973_696),
    "flux_dev": (11_901_408_320, 266, 2_510_290_944, 6_537_216),
    "flux_schnell": (11_891_178_560, 266, 2_510_290_944, 6_537_216),
    "sana": (1_604_462_752, 160, 802_816_000, 2_867_200),
}
MODELS: dict[str, Diffusion] = {}


def at(preset: str) -> Diffusion:
    """Built once a session."""
    if preset not in MODELS:
        files = [preset, *({"flux_schnell": ["flux_dev"]}.get(preset, []))]
        parts = [OmegaConf.load(CONF / "model" / f"{name}.yaml")["model"] for name in reversed(files)]
        MODELS[preset] = without_weights(OmegaConf.to_container(OmegaConf.merge(*parts)))  # type: ignore[arg-type]
    return MODELS[preset]


def billions(model: Diffusion, part: str) -> float:
    """Parameters, and the table of places that Stable Diffusion 3 keeps as a buffer."""
    found = getattr(model, part)
    return (sum(p.numel() for p in found.parameters()) + sum(b.numel() for b in found.buffers())) / 1e9


@pytest.mark.parametrize("preset", SAID)
def test_the_sizes_are_those_that_their_authors_say(preset: str) -> None:
    model, (denoiser, others) = at(preset), SAID[preset]
    assert billions(model, model.denoiser) == pytest.approx(denoiser, rel=0.02)
    for part, said in others.items():
        found = billions(model, part) + (billions(model, "text_encoder_2") if preset == "sdxl" else 0)
        assert found == pytest.approx(said, rel=0.02), part


def test_the_smaller_sana_is_one_of_0_6_billion() -> None:
    with torch.device("meta"):
        pipe = sana(**SANA_600M)
    assert sum(p.numel() for p in pipe.transformer.parameters()) / 1e9 == pytest.approx(0.59, rel=0.02)


@pytest.mark.parametrize("preset", SIZES)
def test_the_presets_names_are_the_published_models(preset: str) -> None:
    model, (parameters, layers, candidates, rank_4) = at(preset), SIZES[preset]
    assert sum(p.numel() for p in model.network.parameters()) == parameters
    adapter = Lora.attach(model, 4, 4, targets=published("fade", preset=preset)["adapter"]["targets"])
    weights = adapter.weights()
    assert (len(weights), sum(w.numel() for w in weights.values())) == (layers, candidates)
    assert sum(p.numel() for p in adapter.parameters()) == rank_4
    adapter.detach()


@pytest.mark.parametrize("preset", ["sdxl", "sd35_medium", "sana", "flux_dev"])
def test_what_a_method_trains_is_found_there(preset: str) -> None:
    """Every method's names find weights; two change none, two a text encoder's, and four name cross-attention, which
    FLUX has none of."""
    weights = [name for name, _ in at(preset).network.named_parameters()]
    for method in names():
        adapter: dict[str, Any] = published(method, preset=preset)["adapter"]
        low_rank = "lora" in adapter["_target_"]
        targets = [f"{re.escape(t)}\\.weight$" if low_rank else t for t in adapter.get("targets", [])]
        missed = not any(re.search(target, weight) for target in targets for weight in weights)
        apart = method in ("stereo", "rece", "speed", "fmn") and preset == "flux_dev"
        assert missed == (method in ("seot", "safree", "diff_quickfix", "advunlearn") or apart), method


def test_every_preset_of_the_hub_has_an_architecture() -> None:
    """But Stable Diffusion 2.1, whose encoder is another; a path of one's own, or of the package, is no name of it."""
    read = [OmegaConf.load(file) for file in (CONF / "model").glob("*.yaml")]
    paths = {str(dict(OmegaConf.to_container(model, resolve=False)).get("model", {}).get("path")) for model in read}
    hub = {path for path in paths if re.fullmatch(r"[\w.-]+/[\w.-]+", path)}
    assert len(hub) >= 7 and hub - {"stabilityai/stable-diffusion-2-1"} <= ARCHITECTURES.keys()
