"""What is exported works where this package cannot be imported: the same predictions and the same image, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from adapting import KINDS, made
from exported import alone, ours
from safetensors.torch import load_file

from fade.adapters.export import export, export_factors
from fade.adapters.gate import Gate
from fade.adapters.stored import Stored
from fade.adapters.text import TextEdit
from fade.errors import BadInput
from fade.models import Diffusion
from fade.sparsity import Dense, Weight


@pytest.mark.processes
def test_every_kind_in_every_form_in_a_process_without_this_package(model: Diffusion, tmp_path: Path) -> None:
    model.pipe.save_pretrained(tmp_path / "base")
    forms, attached, merged = [], {}, {}
    for kind in [*KINDS, None]:
        name = kind.kind if kind else "whole"
        stored = made(model, name, kind, 1, patch=[r"attn2\.to_[kv]\.weight"])
        stored.write(tmp_path / f"{name}-raw")
        adapter = stored.attach(model, name)
        adapter.scale = 0.5
        attached[name] = ours(model)
        for form in ("diffusers", "peft", "patch"):
            assert export(adapter, tmp_path / f"{name}-{form}", to=form) == 0
        adapter.merge()
        merged[name] = ours(model)
        adapter.detach()
        forms += [f"{form}={tmp_path}/{name}-{form}" for form in ("diffusers", "peft", "patch", "raw")]
    found = alone(tmp_path, model, forms)
    for name in attached:
        for form in ("diffusers", "peft", "patch"):
            wanted = merged[name] if form == "patch" else attached[name]
            prediction, image = (found[f"{form}={tmp_path}/{name}-{form}{what}"] for what in ("", " image"))
            if (
                name == "whole" and form != "patch"
            ):  # the change is in the weights here, beside them there: one rounding
                torch.testing.assert_close(prediction, wanted[0], rtol=1e-4, atol=1e-5)
                continue
            assert (prediction - wanted[0]).abs().max() == 0, (name, form)
            assert (image - wanted[1]).abs().max() == 0, (name, form)
    assert not any(key.startswith("raw=") for key in found)


def test_a_fit_says_its_error_and_is_refused_above_the_limit(model: Diffusion, tmp_path: Path) -> None:
    stored = made(model, "a", Weight(0.3), 0)
    with pytest.raises(BadInput, match=r"rank 1 misses \d+\.\d % of the change \(limit 5\.0 %\)"):
        export_factors(tmp_path / "fit", "diffusers", stored.factors(), rank=1)
    assert not (tmp_path / "fit").exists()
    assert 0.1 < export_factors(tmp_path / "fit", "diffusers", stored.factors(), rank=1, limit=1.0) < 1
    assert export_factors(tmp_path / "whole", "diffusers", stored.factors(), rank=64, limit=1e-6) < 1e-6


def test_a_fit_is_the_best_one_of_its_rank(model: Diffusion, tmp_path: Path) -> None:
    """Its error is what the singular values beyond the rank hold, over all layers (Eckart and Young)."""
    stored = made(model, "a", Weight(0.3), 0)
    _, decoded = stored.decode()
    changes = [
        (b.double() @ a.double()) * kept.mask * stored.about["alpha"] / stored.about["rank"]
        for a, b, kept in decoded.values()
    ]
    values = [torch.linalg.svdvals(change) for change in changes]
    missed, whole = (sum(float(s[start:].square().sum()) for s in values) for start in (2, 0))
    assert export_factors(tmp_path / "fit", "peft", stored.factors(), rank=2, limit=1.0) == pytest.approx(
        (missed / whole) ** 0.5, rel=1e-4
    )
    exact = export_factors(tmp_path / "twice", "peft", stored.factors(2.0), rank=2, limit=1.0)
    assert exact == pytest.approx((missed / whole) ** 0.5, rel=1e-4)  # a share: the scale does not show
    written = load_file(tmp_path / "twice" / "adapter_model.safetensors")
    config = json.loads((tmp_path / "twice" / "adapter_config.json").read_text())
    layer = next(iter(decoded))
    b, a = (written[f"base_model.model.{layer}.lora_{side}.weight"].double() for side in "BA")
    u, s, v = torch.linalg.svd(2.0 * changes[0])
    best = u[:, :2] * s[:2] @ v[:2]
    torch.testing.assert_close(config["lora_alpha"] / config["r"] * b @ a, best, rtol=1e-4, atol=1e-5)


def test_what_cannot_be_exported_says_so(model: Diffusion, tmp_path: Path) -> None:
    adapter = made(model, "a", Dense(), 0).attach(model, "a")
    with pytest.raises(BadInput, match="choose diffusers, peft, patch"):
        export(adapter, tmp_path / "out", to="onnx")
    adapter.gate = Gate(("neon",))
    for form in ("diffusers", "peft", "patch"):
        with pytest.raises(BadInput, match="depends on the prompt"):
            export(adapter, tmp_path / "out", to=form)
    adapter.detach()
    edit = TextEdit.attach(model)
    with pytest.raises(BadInput, match="depends on the prompt"):
        export(edit, tmp_path / "out")
    edit.detach()
    with pytest.raises(
        BadInput, match=r"conv_in\.bias \[16\], which a LoRA of linear layers cannot carry; export it to=patch"
    ):
        export_factors(tmp_path / "out", "diffusers", made(model, "b", None, 0).factors())
    nothing = made(model, "c", Dense(), 0)
    zero = Stored(nothing.about, {k: v * 0 for k, v in nothing.tensors.items()})
    assert export_factors(tmp_path / "zero", "peft", zero.factors()) == 0
    assert not (tmp_path / "out").exists()
