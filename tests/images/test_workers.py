"""Distances by several processes, or a cluster, are those of one; kills cost what is unfinished."""

from __future__ import annotations

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.distances import PairwiseDistances, pairwise
from diffodesic.images.neighbours import NearestOptions, nearest
from diffodesic.images.pairs import PairwiseOptions
from support.tiny import exact_model, pictures, tiny_model

FAST = PairwiseOptions(nodes=4, flow_steps=2, batch=1, iterations=3)
pytestmark = pytest.mark.slow  # a process takes seconds to begin


def law() -> GaussianMixture:
    return GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64), std=0.7)


def some(count: int) -> torch.Tensor:
    return law().sample(count, generator=torch.Generator().manual_seed(0))


def test_two_processes_give_the_matrix_of_one():
    model, images = tiny_model(), pictures(3)
    alone = pairwise(model, images, options=FAST)
    both = pairwise(model, images, options=FAST.but(workers=2))
    for name in ("lengths", "errors", "apexes", "statuses"):
        assert torch.equal(getattr(both, name), getattr(alone, name)), name
    assert both.notices == alone.notices


def test_neighbours_by_two_processes_are_those_of_one():
    points = some(9)
    options = NearestOptions(nodes=4, batch=8)
    alone = nearest(law(), points, 2, options=options)
    both = nearest(law(), points, 2, options=options.but(workers=2))
    assert torch.equal(both.index, alone.index)
    assert torch.equal(both.distance, alone.distance)
    assert both.solved == alone.solved


def test_a_killed_process_costs_its_batch_alone(tmp_path: Path):
    points = some(9)
    options = PairwiseOptions(nodes=8, batch=3)
    alone = pairwise(law(), points, options=options)
    said: list[str] = []
    kept: list[int] = []

    def kill(text: str) -> None:
        said.append(text)
        if len(said) == 3:  # two batches are solved
            os.kill(multiprocessing.active_children()[0].pid or 0, signal.SIGKILL)
            kept.append(PairwiseDistances.load(tmp_path / "d.npz").solved)

    with pytest.warns(RuntimeWarning, match="a worker process died"):
        found = pairwise(
            law(), points, file=tmp_path / "d.npz", options=options.but(workers=2), progress=kill
        )
    assert kept == [6]
    assert said == [f"{3 * done} of 36 pairs" for done in range(13)]  # none is solved twice
    assert torch.equal(found.lengths, alone.lengths)


RUN = """
import torch
from diffodesic.denoisers.mixture import GaussianMixture
from diffodesic.images.distances import pairwise
from diffodesic.images.pairs import PairwiseOptions

if __name__ == "__main__":
    law = GaussianMixture(torch.tensor([[-3.0], [0.0], [3.0]], dtype=torch.float64), std=0.7)
    points = law.sample(9, generator=torch.Generator().manual_seed(0))
    options = PairwiseOptions(nodes=8, batch=3, workers=2)
    say = lambda text: print(text, flush=True)
    pairwise(law, points, file="d.npz", options=options, progress=say)
"""


def ended(process: int) -> bool:
    """Whether a process has ended, or is a zombie that nobody has asked after yet."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="finds the workers in /proc")
def test_a_run_that_is_killed_whole_goes_on_and_leaves_no_worker(tmp_path: Path):
    (tmp_path / "run.py").write_text(RUN)
    run = subprocess.Popen(
        [sys.executable, "run.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert run.stdout
    with run.stdout:
        told = [run.stdout.readline().strip() for _ in range(4)]
        workers = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
        run.kill()
        told += run.stdout.read().splitlines()
    assert run.wait() == -signal.SIGKILL
    began = time.monotonic()
    while not all(ended(int(worker)) for worker in workers):
        assert time.monotonic() - began < 30
        time.sleep(0.1)

    finished = int(told[-1].split()[0])
    kept = PairwiseDistances.load(tmp_path / "d.npz").solved
    assert 9 <= finished <= kept < 36
    said: list[str] = []
    options = PairwiseOptions(nodes=8, batch=3)
    found = pairwise(
        law(),
        some(9),
        file=tmp_path / "d.npz",
        options=options.but(workers=2),
        progress=said.append,
    )
    assert said[0] == f"note: goes on from an earlier run, which has solved {kept} of 36 pairs"
    assert said[1:] == [f"{done} of 36 pairs" for done in range(kept, 37, 3)]
    assert torch.equal(found.lengths, pairwise(law(), some(9), options=options).lengths)


def test_two_workers_of_a_cluster_give_the_matrix_of_one_process():
    ray = pytest.importorskip("ray")
    options = PairwiseOptions(nodes=8, batch=3)
    alone = pairwise(law(), some(9), options=options)
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        both = pairwise(law(), some(9), options=options.but(ray="auto"))
        assert ray.is_initialized()  # what was begun elsewhere stays
    finally:
        ray.shutdown()
    assert torch.equal(both.lengths, alone.lengths)
    assert torch.equal(both.statuses, alone.statuses)


def test_a_cluster_that_does_not_answer_is_one_line():
    pytest.importorskip("ray")
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))  # nobody listens
        address = f"127.0.0.1:{door.getsockname()[1]}"
        with pytest.raises(ValueError, match=f"no Ray cluster answers at {address}") as refused:
            pairwise(law(), some(3), options=PairwiseOptions(nodes=4, ray=address))
    assert "\n" not in str(refused.value)


def test_a_cluster_takes_no_number_of_workers():
    with pytest.raises(ValueError, match="a Ray cluster has workers of its own"):
        PairwiseOptions(ray="auto", workers=2)


def test_a_model_that_cannot_travel_is_named():
    model = exact_model(GaussianMixture(torch.zeros(1, 64).double(), std=0.5), (1, 8, 8))
    with pytest.raises(ValueError, match="cannot be given to another process"):
        pairwise(model, pictures(3), options=FAST.but(workers=2))


UNKNOWN = """
import torch
from torch import nn

import diffodesic as dd
from diffodesic.images.pairs import PairwiseOptions


class Net(nn.Module):
    def forward(self, x, t):
        return x / (1 + t.view(-1, 1) ** 2)


schedule = dd.schedules.EDM(0.01, 80.0)
network = Net().eval()
law = dd.from_network(network, shape=(3,), schedule=schedule, prediction="x0", variance=1.0)
points = torch.eye(3, dtype=torch.float64)
options = PairwiseOptions(workers=2, batch=1, nodes=4)
try:
    dd.pairwise(law, points, log_snr=1.0, options=options)
except ValueError as error:
    print(error)
"""


def test_a_class_that_workers_do_not_find_is_named():
    run = subprocess.run(
        [sys.executable, "-c", UNKNOWN],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert re.fullmatch(
        r"a worker process cannot make the model again \(AttributeError: Can't get attribute 'Net'"
        r" on <module '__main__'.*>\); put its classes in a module that it can import, or leave "
        r"workers at 1\n",
        run.stdout,
    ), run.stdout + run.stderr
    assert "Traceback" not in run.stderr
