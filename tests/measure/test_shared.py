"""The base's images are made once, whatever cells, targets and processes ask for them."""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from harmed import flipped
from judging import judge

from benchmarks.measure.answers import Answer, answers
from benchmarks.measure.benchmark import Benchmark, Protocol
from fade import claims
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Request
from fade.errors import BadInput
from fade.models import Diffusion

BASE = "0" * 64


class Meter:
    """Benchmarks of one model on one cache, and how many images it has made."""

    def __init__(self, model: Diffusion, dataset: Canvas, cache: Path, patch: pytest.MonkeyPatch) -> None:
        self.model, self.dataset, self.cache, self.made = model, dataset, cache, 0
        self.judges = {domain: judge(domain, labels) for domain, labels in dataset.domains.items()}
        generate = model.generate

        def counted(prompts, noise, sampling=None):  # type: ignore[no-untyped-def]
            self.made += len(prompts)
            return generate(prompts, noise, sampling)

        patch.setattr(model, "generate", counted)

    def __call__(self, target: str | None = None, share: float = 1.0, seeds: tuple[int, ...] = (1,)) -> Benchmark:
        protocol = Protocol("p", list(seeds), judge_floor=0.0, share=share, whole_target=True)
        request = Request.of(self.dataset, target, None) if target else None
        return Benchmark(self.dataset, self.judges, protocol, self.cache, request=request)


@pytest.fixture
def meter(model: Diffusion, dataset: Canvas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Meter:
    monkeypatch.setattr(claims, "LOOK_S", 0.01)
    return Meter(model, dataset, tmp_path / "cache", monkeypatch)


def test_all_of_the_targets_cells_and_a_balanced_part_of_the_others(dataset: Canvas) -> None:
    prompts = [dataset.caption(cell) for cell in dataset.cells()]

    def ask(target: str, within: str | None = None) -> list[Answer]:
        whole = Request.of(dataset, target, None, within).concerns
        return answers(dataset, prompts, [1], "seed", share=0.25, whole=whole)

    asked = {target: ask(target) for target in ("neon_glow", "house_cat")}
    assert [answer.cell["style"] for answer in asked["neon_glow"]].count("neon_glow") == 4
    assert [answer.cell["object"] for answer in asked["house_cat"]].count("house_cat") == 4
    others = [a for a in asked["neon_glow"] if a.cell["style"] != "neon_glow"]
    assert set(Counter(a.cell["style"] for a in others).values()) == {1}  # a quarter of four objects
    assert set(Counter(a.cell["object"] for a in others).values()) <= {1, 2}
    common = {a.file for a in answers(dataset, prompts, [1], "seed", share=0.25)}
    for target, own in asked.items():  # the others are the same for all targets
        assert {a.file for a in own if target not in a.cell.values()} == {f for f in common if target not in f}
    cells = dataset.cells()
    left_out = next(
        c for c in cells if not any(a.cell == c for a in answers(dataset, prompts, [1], "seed", share=0.25))
    )
    pair = {a.file for a in ask(left_out["style"], left_out["object"])}  # one cell is the target
    assert pair - common == {f"{left_out['style']}_{left_out['object']}_seed1.png"} and common < pair


def test_targets_share_the_bases_images(meter: Meter, dataset: Canvas, tmp_path: Path) -> None:
    neon, glass = meter("neon_glow", 0.25), meter("ink_sketch", 0.25)
    first = neon.measure_base(meter.model, BASE)
    assert meter.made == len(neon.wanted) == 3 + 4
    second = glass.measure_base(meter.model, BASE)
    assert meter.made == 3 + 4 + 3  # one of the four cells of glass is among the quarter
    assert first.folder != second.folder and {row["file"] for row in second.rows} == {a.file for a in glass.wanted}
    for answer in (a for a in neon.wanted if a in glass.wanted):
        one, two = (found.folder / "images" / answer.file for found in (first, second))
        assert one.samefile(two)
    glass.measure_base(meter.model, BASE)
    meter("ink_sketch", 0.25, (1, 2)).measure_base(meter.model, BASE)
    assert meter.made == 10 + 7  # the other seed's alone
    meter("ink_sketch", 0.25).measure_base(meter.model, "1" * 64)
    assert meter.made == 10 + 7 + 7  # another model's are its own


def test_a_harmed_image_is_taken_by_nobody_and_made_again_where_it_lies(
    meter: Meter, caplog: pytest.LogCaptureFixture
) -> None:
    neon, glass = meter("neon_glow", 0.25), meter("ink_sketch", 0.25)
    first = neon.measure_base(meter.model, BASE)
    shared = next(a.file for a in neon.wanted if a in glass.wanted)
    whole = (first.folder / "images" / shared).read_bytes()
    flipped(first.folder / "images" / shared, 60)
    caplog.clear()
    glass.measure_base(meter.model, BASE)
    assert meter.made == 7 + 4
    neon.measure_base(meter.model, BASE)
    assert (first.folder / "images" / shared).read_bytes() == whole
    said = [record.getMessage() for record in caplog.records if record.levelno > logging.INFO]
    assert [shared in line for line in said] == [True, True], said


def test_an_image_of_another_prompt_or_noise_is_not_taken(meter: Meter) -> None:
    meter("neon_glow", 0.25).measure_base(meter.model, BASE)
    neon = Request.of(meter.dataset, "neon_glow", None)
    for changed in ({"prompt": "A {object} in {style} style."}, {"noise": "image"}):
        protocol = Protocol("p", [1], judge_floor=0.0, share=0.25, whole_target=True, **changed)
        made = meter.made
        Benchmark(meter.dataset, meter.judges, protocol, meter.cache, request=neon).measure_base(meter.model, BASE)
        assert meter.made == made + 7


def test_a_base_that_another_makes_is_waited_for(meter: Meter, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    meter("neon_glow", 0.25).measure_base(meter.model, BASE)
    kin = meter.cache / next(meter.cache.glob("base-*")).name.rpartition("-")[0]
    glass = meter("ink_sketch", 0.25)
    assert not glass.base_busy(meter.model, BASE)
    held, free = threading.Event(), threading.Event()

    def other() -> None:
        with claims.claimed(kin, "the base's images"):
            held.set()
            free.wait(60)

    holder = threading.Thread(target=other, daemon=True)
    holder.start()
    assert held.wait(60) and glass.base_busy(meter.model, BASE)
    assert not meter("neon_glow", 0.25).base_busy(meter.model, BASE)  # its own is whole
    threading.Timer(0.3, free.set).start()
    began = time.monotonic()
    glass.measure_base(meter.model, BASE)
    assert time.monotonic() - began > 0.2
    assert any(record.getMessage().startswith("waiting for the base's images: pid ") for record in caplog.records)


def test_a_reading_that_mixes_unequal_shares_is_refused() -> None:
    with pytest.raises(BadInput, match=r"protocol\.reading=code counts the target's cells in CRA"):
        Protocol("p", [1], share=0.25, whole_target=True, reading="code")
    Protocol("p", [1], share=1.0, whole_target=True, reading="code")
    Protocol("p", [1], share=0.25, reading="code")
