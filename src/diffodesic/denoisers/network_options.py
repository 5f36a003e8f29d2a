"""How a network is called, beside what it predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

__all__ = ["NetworkOptions"]


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """How a network is called, beside what it predicts; every field has a usual value.

    Args:
        condition: further keyword arguments of the network.  Tensors describe one sample and are
            repeated over the batch, in the network's device and floating dtype; other values are
            passed as they are.
        log_snr_range: lowest and highest log SNR at which the network can be trusted; default the
            range of the schedule.
        chunk: largest number of inputs in one call; default all.  Without gradients it bounds
            memory; reverse mode keeps the graph of every chunk.
        dtype: dtype of the network; default that of its parameters, else that of ``z``.
        device: device of the network; default that of its parameters, else that of ``z``.
        autocast: dtype of evaluations where torch finds it safe (bfloat16); derivatives keep the
            network's, and finite differences take larger steps.
        integer_time: for networks that take integer times only: their output at other times is
            interpolated linearly between the two nearest, at twice the evaluations.
        trial: call the network a few times when it is wrapped (:meth:`.NetworkDenoiser.trial`), so
            that what is no function of one point and one level is refused by a sentence.
    """

    condition: Mapping[str, Any] = field(default_factory=dict, repr=False)
    log_snr_range: tuple[float, float] | None = None
    chunk: int | None = None
    dtype: torch.dtype | None = None
    device: torch.device | str | None = None
    autocast: torch.dtype | None = None
    integer_time: bool = False
    trial: bool = True
