"""Our order of methods against the published one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.record.results import Run
from benchmarks.studies import _agreement
from benchmarks.studies._agreement import METHODS, Order, agreement, chart, check_methods, orders, published_scores
from fade.errors import BadInput


@pytest.fixture(autouse=True)
def few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """No end that is asked for here is drawn less than once in four."""
    monkeypatch.setattr(_agreement, "_DRAWS", 100)


def run(method: str, target: str, domain: str, ua: float, kept: float, label: str = "") -> Run:
    metrics = {"ua": {"value": ua}, "ira": {"value": kept}, "cra": {"value": kept}}
    said = [f"target={target}", f"method={method}", *([label] if label else [])]
    results = {"method": method, "variant": "", "target": target, "domain": domain, "metrics": metrics}
    return Run(Path(), {**results, "seeds": {"train": 0}, "sparsity": {"kind": "dense"}, "overrides": said})


def test_the_published_table_is_read_as_it_stands() -> None:
    six = published_scores(("ua", "ira", "cra"), ("style", "object"))
    assert set(six) == set(METHODS.values()) and len(six) == 9
    assert six["esd"] == pytest.approx((98.58 + 80.97 + 93.96 + 92.15 + 55.78 + 44.23) / 6)
    assert published_scores(("ua",), ("object",))["ca"] == 46.67


def test_the_published_order_itself_agrees_and_its_reverse_does_not() -> None:
    def runs(sign: int) -> list[Run]:
        made = []
        for method in METHODS.values():
            ua, kept = (published_scores(n, ("style", "object"))[method] / 100 for n in (("ua",), ("ira", "cra")))
            places = [(f"{domain}{k}", domain) for domain in ("style", "object") for k in range(3)]
            made += [run(method, target, domain, sign * ua, sign * kept) for target, domain in places]
        return made

    assert [row[:4] for row in agreement(orders(runs(1)))[1]] == [
        [name, "9", "6", "+1.00"] for name in ("mean of six", "UA", "retention")
    ]
    assert {row[4] for row in agreement(orders(runs(-1)))[1]} == {"[-1.00, -1.00]"}


def test_tau_by_hand_and_its_interval_over_targets() -> None:
    table = np.array([[3.0, 3.0, 0.0], [2.0, 2.0, 2.0], [1.0, 1.0, 9.0]])  # the third target turns the order around
    value, low, high = Order("", [], ["style"] * 3, table, [3.0, 2.0, 1.0]).tau
    # means 2, 2, 3.67: one tie, two pairs discordant; tau_b = -2 / sqrt(3 * 2)
    assert value == pytest.approx(-2 / np.sqrt(6)) and low == -1 and high == 1
    assert Order("", [], ["style"] * 2, np.ones((3, 2)), [3.0, 2.0, 1.0]).tau[0] == 0


def test_a_chart_has_a_mark_for_each_method_at_both_its_places() -> None:
    made = [
        run(method, f"{domain}{k}", domain, ua, 1.0)
        for method, ua in (("esd", 0.5), ("uce", 0.7), ("ca", 0.2))
        for k, domain in enumerate(("style", "style", "object"))
    ]
    made[0] = run("esd", "style0", "style", 0.95, 1.0)  # without it esd is second here, with it first or second
    figure = next(figure for figure in map(chart, orders(made)) if figure.name == "agreement-ua")
    marks = {mark["method"].split()[0]: mark for mark in figure.spec["layer"][2]["data"]["values"]}
    assert sorted(marks) == ["ca", "esd", "uce"] and "tau +1.00" in figure.title
    assert marks["ca"]["method"] == f"ca 20.0 ({(60.82 + 46.67) / 2:.1f})"
    assert [marks["ca"][key] for key in ("theirs", "ours", "low", "high")] == [3, 3, 3, 3]
    assert [marks["esd"][key] for key in ("theirs", "ours", "low", "high")] == [2, 2, 1, 2]


def test_too_few_methods_and_one_in_several_settings_are_refused() -> None:
    two = [run(name, "a", "style", 1.0, 1.0) for name in ("esd", "uce", "fade")]
    with pytest.raises(BadInput, match=r"the folders hold 2 of them \(esd, uce\)"):
        check_methods(two)
    with pytest.raises(BadInput, match=r"esd was run in several settings \(esd; esd lr=1\)"):
        check_methods([*two, run("esd", "a", "style", 1.0, 1.0, "lr=1")])
