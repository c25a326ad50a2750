"""What the authors' library is given to train on, and what is said where it is not there."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.studies.race import main, written
from fade.data.canvas.dataset import Canvas
from fade.data.pairs import Pairs, Request


def test_theirs_reads_the_images_and_captions_of_the_run(dataset: Canvas, tmp_path: Path) -> None:
    pairs = Pairs(dataset, Request.of(dataset, "neon_glow", "photo"), 4, 6, 2, tmp_path / "cache")
    table = json.loads(written(pairs, 32, tmp_path / "out").read_text(encoding="utf-8"))
    chosen = pairs.choose()
    assert {side: len(rows) for side, rows in table.items()} == {side: len(items) for side, items in chosen.items()}
    for row in table["forget"]:
        assert "neon glow" in row["text"] and row["overwrite"] == row["text"].replace("neon glow", "photo")
    assert all(row["text"] == row["overwrite"] and "neon glow" not in row["text"] for row in table["retain"])
    for side, items in chosen.items():
        own = dataset.image(items[-1], 32)
        assert Image.open(table[side][-1]["image"]).tobytes() == own.tobytes()


def test_a_folder_without_their_library_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["race", str(tmp_path), "--peer", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(SystemExit, match="holds no vision_unlearning; --help says how to install it there"):
        main()
    assert not (tmp_path / "out").exists()
