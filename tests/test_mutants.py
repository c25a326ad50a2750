"""Every error that is listed to be planted can be: what it changes stands where it says, once, and so do its tests."""

from __future__ import annotations

from mutants.__main__ import ROOT, listed, stale


def test_every_listed_error_can_still_be_planted() -> None:
    mutants = listed("")
    assert len(mutants) > 300 and stale(mutants) == []
    for file, _, test in sorted({test.partition("::") for mutant in mutants for test in mutant.tests}):
        text = (ROOT / file).read_text(encoding="utf-8")
        assert not test or f"def {test.partition('[')[0].split('::')[-1]}(" in text, f"{file} has no {test}"
