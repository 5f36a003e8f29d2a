"""The work that a run is expected to take, against that which it takes."""

from __future__ import annotations

import pytest

from diffodesic.images.diagnosis import diagnose
from diffodesic.images.interpolation import InterpolateOptions, expected_work, interpolate
from diffodesic.images.spaces import choose_space
from diffodesic.numerics.cost import counting
from diffodesic.output.stages import Store
from support.tiny import pictures, tiny_model


@pytest.mark.parametrize("name", ["spacetime", "score", "jacobian", "conformal", "euclidean"])
def test_a_run_takes_about_what_was_expected(name: str):
    asked = InterpolateOptions(space=choose_space(name, None), frames=3, nodes=4, flow_steps=3)
    with counting() as cost:
        result = interpolate(tiny_model(), *pictures(2), options=asked)
    expected = expected_work(asked)
    assert cost.expected == expected
    assert expected["lifting"] == result.work["lifting"]
    assert expected["frames"] == result.work["frames"]
    # a tiny network that hardly bends is searched quickly
    assert 1 / 5 < sum(result.work.values()) / sum(expected.values()) < 2


def test_what_is_finished_is_not_expected_again(tmp_path):
    store = Store(tmp_path, {})
    store.write("ends", {}, {})
    store.write("path", {}, {})
    assert store.finished() == ["ends", "path"]
    asked = InterpolateOptions(space=choose_space("euclidean", None), frames=3, flow_steps=3)
    left = expected_work(asked, store.finished())
    assert left == {"frames": 3 * 3 * 7, "judging": 0}


@pytest.mark.parametrize("rank", [None, 12])
def test_a_diagnosis_takes_about_what_was_expected(rank: int | None):
    with counting() as cost:
        diagnose(tiny_model(), pictures(2), log_snr=[1.0, 3.0], rank=rank)
    assert cost.expected["trajectories"] == cost.stages["trajectories"]
    assert 1 / 2 < cost.stages["measuring"] / cost.expected["measuring"] < 2
