"""Nothing that a user has is lost: folders keep what this package did not write, pipelines survive whatever fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from adapting import made, state
from diffusers import StableDiffusionPipeline
from snippet import SHORT, image

import fade
from fade.adapters.export import export_factors
from fade.adapters.folder import complete
from fade.adapters.lora import Lora
from fade.adapters.masked import Kept, _Masked
from fade.adapters.patch import Patch
from fade.adapters.stored import Stored
from fade.cli import main
from fade.data.pairs import Pairs
from fade.files import write_json
from fade.methods.fade import Fade
from fade.models import Diffusion
from fade.models.ledger import Ledger
from fade.sparsity import Neuron
from fade.tensors import read_tensors, tensors_hash, write_tensors
from fade.training.unlearner import Unlearner

FORMS = ("adapter", "diffusers", "peft", "patch")


@pytest.fixture
def handle(model: Diffusion) -> fade.Handle:
    return fade.Handle(model, made(model, "neon", Neuron(0.3), 0))


def written(handle: fade.Handle, form: str, folder: Path) -> None:
    handle.save(folder) if form == "adapter" else handle.export(folder, form)


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_that_holds_anything_else_is_refused_and_stays(handle: fade.Handle, tmp_path: Path, form: str) -> None:
    mine = tmp_path / "mine"
    (mine / "sub").mkdir(parents=True)
    (mine / "keep.txt").write_text("keep")
    (mine / "sub" / "thesis.tex").write_text("years")
    before = tree(tmp_path)
    what = "adapter" if form == "adapter" else "export"
    with pytest.raises(
        fade.BadInput, match=rf"mine holds files that are no {what}'s \(keep\.txt, sub\); name a new folder"
    ):
        written(handle, form, mine)
    assert tree(tmp_path) == before
    for name in ("README.md", "adapter.json", "pytorch_lora_weights.safetensors"):  # names that it would write itself
        other = tmp_path / f"only-{name}"
        other.mkdir()
        (other / name).write_text("# mine")
        with pytest.raises(fade.BadInput, match="name a new folder"):
            written(handle, form, other)
        assert tree(other) == {name: b"# mine"}
    written(handle, form, tmp_path / "new")
    (tmp_path / "new" / "README.md").touch()
    stale = (tmp_path / "new" / "README.md").stat().st_ino
    written(handle, form, tmp_path / "new")  # its own files: replaced
    assert (tmp_path / "new" / "README.md").stat().st_ino != stale and not list(tmp_path.glob(".*"))
    once = tree(tmp_path / "new")
    (tmp_path / "new" / "keep.txt").write_text("keep")
    with pytest.raises(fade.BadInput, match=r"\(keep\.txt\)"):
        written(handle, form, tmp_path / "new")
    assert tree(tmp_path / "new") == once | {"keep.txt": b"keep"}


@pytest.mark.parametrize("form", FORMS)
def test_what_cannot_be_written_is_one_line(
    handle: fade.Handle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    (tmp_path / "file").write_text("mine")
    for place, message in (
        (tmp_path / "file", "Not a directory"),
        (Path("/proc/x"), "No such file"),
        (tmp_path / ("x" * 300), "long"),
    ):
        with pytest.raises(fade.BadInput, match=f"cannot write .*{message}") as caught:
            written(handle, form, place)
        assert "\n" not in str(caught.value)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(fade.BadInput, match="the folder that you are in"):
        written(handle, form, Path())
    assert (tmp_path / "file").read_text() == "mine" and not list(tmp_path.glob(".*"))


def test_results_come_into_a_card_beside_files_of_the_users(model: Diffusion, tmp_path: Path) -> None:
    made(model, "neon", Neuron(0.3), 0).write(tmp_path / "a")
    (tmp_path / "a" / "notes.txt").write_text("mine")
    ua = {"value": 0.9, "low": 0.8, "high": 1.0, "n": 40}
    complete(tmp_path / "a", {"metrics": {"ua": ua}, "base": {"ua": ua}})
    assert (tmp_path / "a" / "notes.txt").read_text() == "mine"
    assert json.loads((tmp_path / "a" / "adapter.json").read_text())["results"]["metrics"]["ua"] == ua
    Stored.read(tmp_path / "a")


@pytest.mark.parametrize("kind", [Neuron(0.3), None], ids=["lora", "patch"])
def test_an_adapter_of_nan_is_neither_written_nor_read(model: Diffusion, tmp_path: Path, kind: Neuron | None) -> None:
    stored = made(model, "neon", kind, 0)
    stored.write(tmp_path / "good")
    name = next(key for key in stored.tensors if key.endswith((".B", ".delta")))
    stored.tensors[name].view(-1)[0] = float("inf")
    with pytest.raises(fade.BadInput, match=f"{name} of the adapter is not finite; nothing was written"):
        stored.write(tmp_path / "bad")
    assert not (tmp_path / "bad").exists()
    tensors, metadata = read_tensors(tmp_path / "good" / "adapter.safetensors")
    tensors = {key: value.clone() for key, value in tensors.items()} | {name: stored.tensors[name]}
    card = json.loads(metadata["card"]) | {"sha256": tensors_hash(tensors)}
    write_tensors(tmp_path / "good" / "adapter.safetensors", tensors, {**metadata, "card": json.dumps(card)})
    write_json(tmp_path / "good" / "adapter.json", card)
    clean = state(model)
    with pytest.raises(fade.BadInput, match=f"{name} is not finite"):
        fade.load(model.pipe, tmp_path / "good")
    assert state(model) == clean


def test_a_scale_that_is_none_is_refused_and_the_old_one_stays(
    model: Diffusion, handle: fade.Handle, tmp_path: Path
) -> None:
    handle.save(tmp_path / "a")
    clean, refused = state(model), partial(pytest.raises, fade.BadInput, match=r"scale is .*; it must be a number")
    wrong: list[Any] = [float("nan"), float("inf"), -1e30, 1001, "x", None, [1]]
    for scale in wrong:
        with refused():
            fade.load(model.pipe, tmp_path / "a", scale=scale)
        with refused():
            handle.stored.factors(scale)
        assert state(model) == clean and not hasattr(model.unet, "peft_config") and not (tmp_path / "lora").exists()
    with handle:
        handle.scale = 0.5
        wanted = image(model.pipe)
        for scale in wrong:
            with refused():
                handle.scale = scale
        assert handle.scale == 0.5 and torch.equal(image(model.pipe), wanted)
        for adapter in (handle.adapter, made(model, "b", None, 0).attach(model, "b")):
            assert adapter is not None
            for scale in wrong:
                with refused():
                    adapter.scale = scale


@pytest.mark.parametrize("form", FORMS[1:])
def test_an_export_of_nothing_or_by_wrong_numbers_is_refused(handle: fade.Handle, tmp_path: Path, form: str) -> None:
    handle.scale = 0
    with pytest.raises(fade.BadInput, match="changes nothing"):
        handle.export(tmp_path / "out", form)
    handle.scale = 1
    if form != "patch":
        for given in ({"rank": 0}, {"rank": -1}, {"rank": 1, "limit": float("nan")}, {"limit": -1}):
            with pytest.raises(fade.BadInput, match=r"(rank|limit) is .*; it must be"):
                handle.export(tmp_path / "out", form, **given)
    assert not (tmp_path / "out").exists()


WRONG: list[tuple[str, str]] = [
    ("merge neon --base base --out out --scale nan", "scale is nan"),
    ("merge neon --base base --out out --scale 1e30", "scale is 1e+30"),
    ("merge huge --base base --out out --scale 1000 --dtype float16", "is not finite at scale 1000 in float16"),
    ("export huge --base base --out out --to patch --scale 1000 --dtype float16", "not finite at this scale"),
    ("export neon --to peft --out out --scale nan", "scale is nan"),
    ("export neon --to peft --out out --rank 0", "rank is 0"),
    ("export neon --to peft --out out --rank 1 --limit nan", "limit is nan"),
    ("verify neon --base base --cycles 0", "cycles is 0"),
    ("verify neon --base base --cycles -1", "cycles is -1"),
    ("info run", "adapter.json is missing; did you mean run/adapter?"),
    ("info sequence", "adapter.json is missing; did you mean sequence/01-neon/adapter?"),
    ("merge neon --base base --out /proc/x", "cannot write /proc/x: No such file"),
    ("export neon --to peft --out /proc/x", "cannot write /proc/x: No such file"),
]


def test_wrong_numbers_on_the_command_line_are_one_line_and_nothing_is_written(
    model: Diffusion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    stored = made(model, "neon", Neuron(0.3), 0)
    for place in ("neon", "run/adapter", "sequence/01-neon/adapter"):
        stored.write(place)
    tensors = {key: value * 1e3 if key.endswith(".B") else value for key, value in stored.tensors.items()}
    Stored(stored.about | {"sha256": tensors_hash(tensors)}, tensors).write("huge")
    model.pipe.save_pretrained("base")
    capsys.readouterr()
    for arguments, message in WRONG:
        assert main(arguments.split()) == 1
        (line,) = [text for text in capsys.readouterr().err.splitlines() if text.startswith("error: ")]
        assert message in line and not Path("out").exists(), arguments


# a pipeline, whatever fails


def portrait(pipe: StableDiffusionPipeline) -> dict[str, Any]:
    """All that a failure could leave behind."""
    parts = {"unet": pipe.unet, "vae": pipe.vae, "text": pipe.text_encoder}
    modules = {f"{part}.{name}": m for part, module in parts.items() for name, m in module.named_modules()}
    return {
        "weights": {part: tensors_hash(module.state_dict()) for part, module in parts.items()},
        "modules": {name: id(module) for name, module in modules.items()},
        "training": {name: module.training for name, module in modules.items()},
        "hooks": {
            name: (len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for name, m in modules.items()
        },
        "flags": [p.requires_grad for module in parts.values() for p in module.parameters()],
        "grads": [p.grad is None for module in parts.values() for p in module.parameters()],
        "peft": hasattr(pipe.unet, "peft_config"),
        "scheduler": (id(pipe.scheduler), {k: str(v) for k, v in vars(pipe.scheduler).items()}),
        "bar": dict(pipe._progress_bar_config),
        "own": sorted(set(vars(pipe)) - {"_diffusion"}),
    }


def nth(original: Callable[..., Any], n: int, error: BaseException) -> Callable[..., Any]:
    """The function, but its call number n does its work and then fails."""
    calls: list[int] = []

    def failing(*given: Any, **settings: Any) -> Any:
        found = original(*given, **settings)
        calls.append(0)
        if len(calls) == n:
            raise error
        return found

    return failing


STAGES: dict[str, tuple[Any, str, int]] = {
    "attach": (_Masked, "init", 5),
    "attached": (Lora, "attach", 1),
    "images": (Diffusion, "generate", 2),
    "pairs": (Pairs, "prepare", 1),
    "locate": (Fade, "locate", 1),
    "first step": (Unlearner, "training_step", 1),
    "last step": (Unlearner, "optimizer_step", 3),
    "after training": (Lora, "settle", 1),
    "stored": (Stored, "of", 1),
}


@pytest.mark.parametrize(
    ("stage", "error"),
    [*((stage, KeyboardInterrupt) for stage in STAGES), ("images", RuntimeError), ("last step", RuntimeError)],
)
def test_a_failed_unlearn_leaves_no_trace(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch, stage: str, error: type[BaseException]
) -> None:
    """Ctrl-C, which no `except Exception` sees, at every stage; an error outside of the loop and within it."""
    pipe = model.pipe
    pipe.unet.train()
    pipe.unet.conv_in.requires_grad_(True)
    pipe.set_progress_bar_config(desc="mine", disable=True)
    before = portrait(pipe)
    owner, name, n = STAGES[stage]
    plain = owner.__dict__[name]
    static = isinstance(plain, (staticmethod, classmethod))
    failing = nth(plain.__func__ if static else plain, n, error("no"))
    with monkeypatch.context() as patch, pytest.raises((error, SystemExit)):  # Lightning exits on Ctrl-C
        patch.setattr(owner, name, type(plain)(failing) if static else failing)
        fade.unlearn(pipe, "neon style", "photo style", **SHORT)
    assert portrait(pipe) == before


@pytest.mark.parametrize("method", ["fade", "ca", "seot"], ids=["lora", "patch", "text"])
def test_after_failures_a_correct_call_is_what_it_would_have_been(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    pipe, short = model.pipe, {**SHORT, "steps": 2}
    untouched = image(pipe)
    before = portrait(pipe)
    wanted = fade.unlearn(pipe, "neon style", "photo style", method, **short).card["sha256"]
    assert portrait(pipe) == before
    wrong: list[dict[str, Any]] = [{"targets": ["nowhere"]}]
    wrong += [{"rank": 2.5}, {"alpha": 0}, {"alpha": float("nan")}, {"rank": 10**6}] if method == "fade" else []
    for given in wrong if method != "seot" else []:
        with pytest.raises(fade.BadInput):
            fade.unlearn(pipe, "neon style", "photo style", method, **{**short, **given})
    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="no"):
        patch.setattr(Stored, "of", nth(Stored.of, 1, RuntimeError("no")))
        fade.unlearn(pipe, "neon style", "photo style", method, **short)
    assert portrait(pipe) == before and torch.equal(image(pipe), untouched)
    assert fade.unlearn(pipe, "neon style", "photo style", method, **short).card["sha256"] == wanted


def test_a_load_that_is_stopped_halfway_leaves_no_trace(
    model: Diffusion, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, kind in (("lora", Neuron(0.3)), ("patch", None), ("on", Neuron(0.3))):
        made(model, name, kind, 0).write(tmp_path / name)
    with fade.load(model.pipe, tmp_path / "on"):
        drawn = image(model.pipe)
        before = portrait(model.pipe)
        for owner, name in ((Kept, "to"), (Patch, "__init__"), (Ledger, "refresh")):
            with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
                patch.setattr(owner, name, nth(getattr(owner, name), 1, KeyboardInterrupt()))
                fade.load(model.pipe, tmp_path / ("lora" if owner is Kept else "patch"))
            assert portrait(model.pipe) == before and torch.equal(image(model.pipe), drawn)
        assert len(fade.attached(model.pipe)) == 1


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode], ids=["no_grad", "inference_mode"])
def test_a_server_may_unlearn_and_load_in_its_own_mode(model: Diffusion, tmp_path: Path, mode: Any) -> None:
    wanted = fade.unlearn(model.pipe, "neon style", "photo style", **SHORT).card["sha256"]
    clean = state(model)
    with mode():
        handle = fade.unlearn(model.pipe, "neon style", "photo style", **SHORT)
        handle.save(tmp_path / "a")
        on = [fade.load(model.pipe, tmp_path / "a") for _ in range(2)]
        both = image(model.pipe)
        for one in on:
            one.merge()
        merged = image(model.pipe)
    assert handle.card["sha256"] == wanted
    assert torch.equal(image(model.pipe), merged)
    for one in on:
        one.unmerge()
    assert torch.equal(image(model.pipe), both)
    for one in on:
        one.remove()
    assert state(model) == clean


def test_nothing_is_trained_on_top_of_what_is_attached(model: Diffusion, tmp_path: Path) -> None:
    """The adapter would be right only together with the other, and its card would name the base alone."""
    pipe = model.pipe
    for name, kind in (("lora", Neuron(0.3)), ("patch", None)):
        made(model, name, kind, 0).write(tmp_path / name)
        fade.load(pipe, tmp_path / name)  # the handle is dropped, the adapter stays on
        (dropped,) = fade.attached(pipe)
        with pytest.raises(fade.BadInput, match=rf"<adapter without {name}, .*, on> is on this pipeline"):
            fade.unlearn(pipe, "neon style", "photo style", **SHORT)
        assert dropped.adapter is not None
        dropped.remove()
        assert fade.attached(pipe) == []
    export_factors(tmp_path / "stock", "diffusers", made(model, "stock", Neuron(0.3), 0).factors())
    pipe.load_lora_weights(tmp_path / "stock", adapter_name="mine")
    with pytest.raises(fade.BadInput, match="the adapter 'mine' is on this pipeline"):
        fade.unlearn(pipe, "neon style", "photo style", **SHORT)


def test_a_pipeline_in_training_stays_in_training_while_an_adapter_comes_and_goes(
    model: Diffusion, tmp_path: Path
) -> None:
    made(model, "lora", Neuron(0.3), 0).write(tmp_path / "lora")
    pipe = model.pipe
    for module in (pipe.unet, pipe.vae, pipe.text_encoder):
        module.requires_grad_(True).train()
    before = portrait(pipe)
    handle = fade.load(pipe, tmp_path / "lora")
    assert pipe.unet.conv_in.weight.requires_grad and pipe.unet.training
    handle.remove()
    assert portrait(pipe) == before


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"lr": 1e10, "steps": 8},
            r"the loss is (nan|inf) at step \d of 8; lower optimizer\.build\.lr \(it is 1e\+10\)",
        ),
        ({"lr": 1e30, "steps": 1}, r"not finite after step 1 of 1; lower optimizer\.build\.lr \(it is 1e\+30\)"),
        ({"lr": 1e-300}, r"the adapter changes nothing after step 3 of 3; raise optimizer\.build\.lr"),
        ({"sparsity": "dense", "retain": ["broken"]}, "the loss is nan at step 1 of 3, before anything was trained"),
    ],
    ids=["nan on the way", "nan at the end", "nothing", "nan from the start"],
)
def test_a_training_that_ends_in_nan_or_in_nothing_is_one_line(
    model: Diffusion, given: dict[str, Any], message: str
) -> None:
    if "retain" in given:
        model.unet.conv_in.weight.data[0, 0, 0, 0] = float("nan")
    before = portrait(model.pipe)
    with pytest.raises(fade.BadInput, match=message):
        fade.unlearn(model.pipe, "neon style", "photo style", **{**SHORT, **given})
    assert portrait(model.pipe) == before
