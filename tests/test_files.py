"""Files as the record: what was changed since it was written is noticed, and modes follow the umask."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from harmed import flipped
from safetensors.torch import save_file

from fade.files import Harmed, atomic, leftovers, read_json, unharmed, without_folders, write_json
from fade.raw import TYPES, raw_hash, read_raw
from fade.tensors import read_tensors, tensors_hash, write_tensors
from fade.training.checkpoint import SafeCheckpoint, read_checkpoint

TENSORS = {
    "a": torch.arange(6.0).reshape(2, 3),
    "b": torch.ones(5, dtype=torch.bool),
    "c": torch.tensor(7),
    "d": torch.ones(3).bfloat16(),
}
ABOUT = {"seconds": "1.5", "card": "{}", "format": "pt", "what": "ü"}


def test_tensors_come_back_with_their_metadata_and_equal_content_makes_equal_bytes(tmp_path: Path) -> None:
    for k in range(6):
        write_tensors(tmp_path / f"{k}", TENSORS, ABOUT if k % 2 else dict(reversed(ABOUT.items())))
    assert len({(tmp_path / f"{k}").read_bytes() for k in range(6)}) == 1
    found, about = read_tensors(tmp_path / "0")
    assert about == ABOUT and found.keys() == TENSORS.keys() and tensors_hash(found) == tensors_hash(TENSORS)


def test_without_torch_the_same_is_read_and_the_same_hash_formed(tmp_path: Path) -> None:
    every = {kind: torch.ones(2, dtype=getattr(torch, kind)) for kind, _ in TYPES.values()} | TENSORS
    write_tensors(tmp_path / "file", every, ABOUT)
    found, about = read_raw(tmp_path / "file")
    assert about == ABOUT and raw_hash(found) == tensors_hash(every)
    assert {name: raw.values().tolist() for name, raw in found.items()} == {
        name: value.flatten().tolist() for name, value in every.items()
    }


def test_one_flipped_bit_of_a_tensor_or_of_the_metadata_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "saliency.safetensors"
    write_tensors(path, TENSORS, ABOUT)
    data = path.read_bytes()
    for place in (len(data) - 1, len(data) - 30, data.index(b"1.5"), data.index(b"[2,3]") + 1):
        path.write_bytes(data)
        flipped(path, place)
        with pytest.raises(Harmed, match=r"saliency\.safetensors is "):
            read_tensors(path)
    for length in (0, 4, 20, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(Harmed, match="is truncated or no safetensors file"):
            read_tensors(path)


def test_a_file_without_a_digest_is_taken_as_it_is(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "old")
    assert read_tensors(tmp_path / "old")[1] == {}


def test_a_harmed_file_that_can_be_made_again_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "results.json"
    assert unharmed(path, read_json) is None and not caplog.messages
    write_json(path, {"a": 1})
    assert unharmed(path, read_json) == {"a": 1} and not caplog.messages
    path.write_text('{"a')
    assert unharmed(path, read_json) is None
    assert len(caplog.messages) == 1 and "results.json is cut short or is no JSON" in caplog.text


def test_a_flipped_or_foreign_checkpoint_is_no_checkpoint(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    SafeCheckpoint().save_checkpoint({"state": {0: torch.ones(3)}, "step": 4}, path)
    assert read_checkpoint(path)["step"] == 4
    flipped(path, path.stat().st_size - 1)
    with pytest.raises(Harmed, match=r"last\.ckpt"):
        read_checkpoint(path)
    write_tensors(path, TENSORS)
    with pytest.raises(Harmed, match="is no checkpoint"):
        read_checkpoint(path)


@pytest.fixture
def shared() -> Iterator[None]:
    before = os.umask(0o002)
    yield
    os.umask(before)


def test_modes_follow_the_umask_whatever_writes(tmp_path: Path, shared: None) -> None:
    write_tensors(tmp_path / "tensors", TENSORS)
    write_json(tmp_path / "json", 1)
    with atomic(tmp_path / "folder") as temporary:
        temporary.mkdir()
        save_file({"a": torch.ones(2)}, temporary / "made")
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*") if path.is_file()} == {"0o664"}


def test_what_a_kill_left_half_written_is_removed_and_a_folder_goes_back_to_its_place(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in (".a.json.0123456789ab.part", "images/.b.png.0123456789ab.part", ".lock", "images/.made.jsonl"):
        (tmp_path / name).write_text("half")
    for name in (".adapter.0123456789ab.part", ".adapter.0123456789ab.part.old", ".gone.0123456789ab.part.old", "gone"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "card").write_text(name)
    leftovers(tmp_path)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {".lock", "images/.made.jsonl", "adapter/card", "gone/card"}
    assert (tmp_path / "adapter" / "card").read_text().endswith(".old") and (
        tmp_path / "gone" / "card"
    ).read_text() == "gone"


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ("output_dir=/data/me/outputs", "output_dir=outputs"),
        ("dataset.root='/data/a b/canvas'", "dataset.root='canvas'"),
        (
            "a: [/x/y, /z]\nroot: /mnt/a b/c\nshipped: ${shipped:pipeline}",
            "a: [y, z]\nroot: c\nshipped: ${shipped:pipeline}",
        ),
        ("output_dir=outputs/sweep", "output_dir=outputs/sweep"),
        ("A {object} image / {style}, 1/2", "A {object} image / {style}, 1/2"),
    ],
)
def test_what_is_handed_on_names_no_folder_of_the_machine(given: str, left: str) -> None:
    assert without_folders(given) == left
