"""What the demo does, on the tiny model, without Gradio; and that nothing of it changes the pipeline or a folder."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import diffusers
import numpy as np
import pytest
import transformers
from adapting import state
from command import ROOT
from omegaconf import OmegaConf
from PIL import Image
from snippet import SHORT

import fade
from fade.api import without
from fade.data.prompts import words
from fade.demo import page
from fade.demo.__main__ import main
from fade.demo.filled import Training, of_another, of_embedded
from fade.demo.studio import Cancelled, Progress, Studio, said
from fade.errors import BadInput
from fade.files import shipped
from fade.judges import Judge
from fade.models import Diffusion
from fade.models.families import family_at
from fade.published import embedded

PROMPT = "A cat image in neon style."
OPTIONS = {name: SHORT[name] for name in ("images", "sampling_steps", "guidance", "batch", "lr")}
ASKED = Training("neon style", "photo style", SHORT["templates"], SHORT["retain"], 3, OPTIONS)


@pytest.fixture
def studio(model: Diffusion) -> Studio:
    return Studio(model.pipe, 2, 3.0)


def trained(studio: Studio) -> str:
    *_, last = studio.train(ASKED, PROMPT, 1)
    assert last.label
    return last.label


def same(one: Image.Image, other: Image.Image) -> bool:
    return bool((np.asarray(one) == np.asarray(other)).all())


def gap(one: Image.Image, other: Image.Image) -> int:
    """The largest difference of two pictures, in levels of 255."""
    return int(abs(np.asarray(one).astype(int) - np.asarray(other)).max())


def files(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_a_training_is_watched_and_ends_as_an_unwatched_one(studio: Studio) -> None:
    clean = state(studio.model)
    seen: list[Progress] = list(studio.train(ASKED, PROMPT, 1))
    steps = [len(at.losses) for at in seen]  # between them it is asked what the work says of itself
    assert sorted({*steps}) == [0, 1, 2, 3] and steps == sorted(steps) and [at.label for at in seen[:-1]].count(None)
    assert not [at for at in seen[:-1] if at.label] and "distil: 2/3" in " ".join(at.says for at in seen)
    first, last = seen[0].preview, seen[-1].preview
    assert first and last and all(at.preview for at in seen) and not same(first, last) and state(studio.model) == clean
    alone = fade.unlearn(studio.model.pipe, "neon style", "photo style", **SHORT)
    assert studio.handles[str(seen[-1].label)].card["sha256"] == alone.card["sha256"]


def test_a_training_that_is_stopped_leaves_nothing(studio: Studio) -> None:
    clean, seen = state(studio.model), []
    with pytest.raises(Cancelled, match="nothing was kept"):
        for at in studio.train(ASKED, PROMPT, 1):
            seen.append(at)
            if at.losses:
                studio.cancelled.set()
    assert 0 < len(seen[-1].losses) < 3 and not studio.handles and state(studio.model) == clean
    reader = studio.train(ASKED, PROMPT, 1)
    assert not next(reader).losses and len(next(at for at in reader if at.losses).losses) == 1
    reader.close()  # the browser's tab is shut
    assert studio.cancelled.is_set() and state(studio.model) == clean
    assert trained(studio)  # and the next one is not stopped


def test_a_training_that_is_stopped_while_it_draws_draws_no_further_step(studio: Studio) -> None:
    """Nor in the batch that has begun."""
    clean, passes = state(studio.model), list[int]()
    reader = studio.train(ASKED, PROMPT, 1)
    next(reader)  # the picture before: from here on images are drawn

    def stop(*_: object) -> None:
        passes.append(1)
        studio.cancelled.set()

    hook = studio.model.network.register_forward_hook(stop)
    with pytest.raises(Cancelled, match="stopped while making images 0 of 12; nothing was kept"):
        list(reader)
    hook.remove()
    assert len(passes) == 1 and not studio.handles and state(studio.model) == clean


def test_pictures_of_adapters_at_a_scale_on_and_off_merged_and_several(studio: Studio, tmp_path: Path) -> None:
    label = trained(studio)
    run = tmp_path / "run"
    studio.handles[label].save(run / "adapter")
    kept, clean = files(run), state(studio.model)
    again = studio.add(str(run))  # a run's folder, and below an adapter's
    assert again == f"{label} (2)" and studio.add(str(run / "adapter")) == f"{label} (3)"

    def after(labels: list[str], scale: float = 1.0, on: bool = True, merged: bool = False) -> Image.Image:
        before, made = studio.before_after(PROMPT, 1, labels, scale, on, merged)
        assert same(before, base)
        return made

    base = studio.picture(PROMPT, 1)
    full, none, twice = after([label]), after([label], 0.0), after([label, again])
    assert same(after([again]), full) and same(none, base) and same(after([label], on=False), base)
    assert not same(full, base) and not same(twice, full)
    assert gap(after([label], merged=True), full) <= 1
    strip = studio.strip(PROMPT, 1, [label])
    assert [words for _, words in strip] == [f"scale {s}" for s in ("0", "0.25", "0.5", "0.75", "1")]
    assert same(strip[0][0], base) and same(strip[-1][0], full) and not same(strip[2][0], full)
    assert state(studio.model) == clean and files(run) == kept


def test_what_cannot_be_used_is_one_line(studio: Studio, tmp_path: Path) -> None:
    label = trained(studio)
    studio.save(label, str(tmp_path / "own"))
    wrong = {
        "prompt is empty": lambda: studio.picture("  ", 1),
        "seed is -1": lambda: studio.picture(PROMPT, -1),
        "no folder was named": lambda: studio.add(" "),
        "adapter.json is missing": lambda: studio.add(str(tmp_path)),
        "no adapter is chosen": lambda: studio.strip(PROMPT, 1, []),
        "there is no adapter 'x'": lambda: studio.strip(PROMPT, 1, ["x"]),
        "scale": lambda: studio.before_after(PROMPT, 1, [label], float("nan"), True, False),
        "exists already": lambda: studio.save(label, str(tmp_path / "own")),
        "no judge knows 'neon style'": lambda: list(studio.attacks(label, ["prompts"], 4)),
        "not the same": lambda: list(studio.train(Training("a", "a", ["{}"], ["b"], 1, OPTIONS), PROMPT, 1)),
    }
    for line, act in wrong.items():
        with pytest.raises(BadInput, match=line) as error:
            act()
        assert "\n" not in str(error.value)
        shown = page.in_one_line(act, (None,))()
        assert shown == (None, str(error.value))
    assert page.in_one_line(lambda: 1, (None,))() == (1, "")


def test_an_adapter_of_another_base_is_refused(studio: Studio, tmp_path: Path) -> None:
    studio.save(trained(studio), str(tmp_path / "own"))
    weight = next(studio.model.network.parameters())
    weight.data = weight.data + 1
    with pytest.raises(BadInput, match="was made for the base"):
        Studio(studio.model.pipe, 2, 3.0).add(str(tmp_path / "own"))


def test_what_the_table_of_attacks_says() -> None:
    share = {"value": 0.5, "low": 0.25, "high": 0.752, "n": 8}
    row = {"attack": "closed", "success": share, "base": {**share, "value": 1.0}, "off": None}
    assert said(row) == ["closed", "50.0 [25.0, 75.2]", "100.0 [25.0, 75.2]", "–"]
    assert said({"attack": "closed", "refused": "a reason"}) == ["closed", "a reason", "", ""]


def test_what_the_boxes_hold_of_an_embedded_pipeline_can_be_trained() -> None:
    """Captions of its own grid, of every concept; FADE's settings; and the folder alone says which pipeline it is."""
    found = embedded(shipped("canvas/pipeline"))
    assert found and found["name"] == "canvas" and all(Path(folder).is_dir() for folder in found["judges"].values())
    filled = of_embedded(found)
    captions = {filled.dataset.caption(cell) for cell in filled.dataset.cells()} if filled.dataset else set()
    for concept in filled.concepts:
        asked = filled.asking(concept).training
        shown = {template.format(words(concept)) for template in asked.templates}
        assert shown <= captions and {*asked.retain} <= captions and len(shown) == 4
        assert without(asked.retain, concept) == asked.retain and asked.surrogate != concept
    assert (filled.sampling_steps, filled.guidance) == (15, 4.0) and filled.training.options["rank"] == 8
    assert filled.asking("a word that no judge knows") is filled


def test_the_embedded_transformer_is_drawn_trained_and_attacked_like_the_default() -> None:
    """Its boxes hold captions of the grid that it draws, and what cannot be done on its family is one line."""
    found = embedded(shipped("canvas_flow/pipeline"))
    assert found and found["name"] == "canvas_flow" and found["target"] is None
    filled = of_embedded(found).sampled(sampling_steps=2)
    path, judges = found["model"]["path"], [Judge.load(folder) for folder in found["judges"].values()]
    studio = Studio(family_at(path).read(path, "float32", None, False), 2, filled.guidance, judges, filled.dataset)
    clean, asked = state(studio.model), filled.training
    few = replace(asked, steps=2, templates=asked.templates[:1], retain=asked.retain[:1])
    *_, last = studio.train(replace(few, options={**few.options, "images": 2}), filled.prompt, 1)
    assert last.label == f"without {asked.concept}" and len(last.losses) == 2 and asked.concept in filled.concepts
    strip = studio.strip(filled.prompt, 1, [last.label])
    before, after = studio.before_after(filled.prompt, 1, [last.label], 1.0, True, False)
    assert same(strip[0][0], before) and same(strip[-1][0], after) and not same(before, after)
    *_, (rows, drawn) = studio.attacks(last.label, ["closed"], 2)
    assert [row[0] for row in rows] == ["none", "closed"] and drawn and state(studio.model) == clean
    with pytest.raises(BadInput, match="has no single text encoder") as refused:
        list(studio.attacks(last.label, ["bypass"], 2))
    assert "\n" not in str(refused.value)


def test_the_default_is_that_of_run_py_and_of_another_pipeline_nothing_is_known(tmp_path: Path) -> None:
    config = OmegaConf.load(ROOT / "conf" / "config.yaml")
    (model,) = [entry["model"] for entry in config.defaults if "model" in entry]
    found = embedded()
    assert found and found["name"] == model and found["target"] == config.target
    assert of_embedded(found).training.concept == config.target and embedded(str(tmp_path)) is None
    fast = of_embedded(found).sampled(sampling_steps=4, guidance=None)
    assert (fast.sampling_steps, fast.guidance) == (4, 4.0) and fast.asking("photo").training.options == {
        **of_embedded(found).training.options,
        "sampling_steps": 4,
    }
    assert of_another().concepts == [] and of_another().asking("cat") == of_another()


def test_the_demo_reads_its_pipeline_without_bars(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("fade.demo.__main__.gradio", lambda: None)  # up to the page, which needs it
    served: list[Studio] = []
    monkeypatch.setattr(page, "show", lambda studio, *_: served.append(studio))
    for library in (diffusers, transformers):
        library.utils.logging.enable_progress_bar()  # as a process begins
    assert main(["--no-browser"]) == 0 and len(served) == 1
    assert "Loading" not in capfd.readouterr().err


def test_without_gradio_one_line_says_how_to_get_it() -> None:
    """And --help answers without torch."""
    hide = "import sys; sys.modules['gradio'] = None; from fade.demo.__main__ import main; "
    done = subprocess.run([sys.executable, "-c", hide + "sys.exit(main([]))"], capture_output=True, text=True)
    assert done.returncode == 1 and "make demo" in done.stderr and done.stderr.count("\n") == 1
    code = "import sys; from fade.demo.__main__ import parser; parser().format_help(); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
