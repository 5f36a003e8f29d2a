r"""What a network of diffusers was trained with, read from the scheduler saved beside it.

A sampler's steps, spacing and time shift are of no concern here: only the process counts.

    betas          alpha_t^2 = prod (1 - beta), t = 0 .. T-1       DDPM, DDIM, PNDM, Euler, DPM ...
    flow matching  x_t = (1 - t) x0 + t eps, the network is told T t                 (2403.03206)
    EDM            c_skip z + c_out F(c_in z, log(sigma)/4); for v-prediction F has the other sign

The product is taken in float64 from the saved betas: the scheduler's own float32 table has lost
1 - alpha^2 to rounding at the clean end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from diffodesic.denoisers.network import Prediction
from diffodesic.denoisers.schedules import EDM, FlowMatching, Schedule, Tabulated
from diffodesic.models.folder import ModelError

__all__ = ["Convention", "read_convention"]

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


@dataclass(frozen=True)
class Convention:
    """The conventions that a network of diffusers was trained with.

    Attributes:
        schedule: the process of training.
        prediction: what the network returns.
        sigma_data: of EDM's preconditioning.
        time_scale: what the native time is multiplied by before the network is told it.
        sign: what its output is multiplied by.
        thresholding: whether its sampler cuts the predicted data; the geometry does not.
    """

    schedule: Schedule
    prediction: Prediction
    sigma_data: float | None = None
    time_scale: float = 1.0
    sign: float = 1.0
    thresholding: bool = False


def read_convention(scheduler: Any) -> Convention:
    """Read a scheduler of diffusers.

    Args:
        scheduler: the scheduler, of any sampler for one of the three processes above.

    Returns:
        the convention.

    Raises:
        ModelError: for another process or an unknown prediction.
    """
    name, config = type(scheduler).__name__, scheduler.config
    kind = config.get("prediction_type", "epsilon")
    flow = name.startswith("FlowMatch")
    if flow or (config.get("use_flow_sigmas") and kind == "flow_prediction"):
        return Convention(
            FlowMatching(), "flow", time_scale=float(config.get("num_train_timesteps", 1000))
        )
    if kind not in _PREDICTIONS:
        raise ModelError(
            f"the scheduler's prediction_type is {kind!r}; known are {', '.join(_PREDICTIONS)} "
            "and flow matching"
        )
    cut = bool(config.get("thresholding") or config.get("clip_sample"))
    if name.startswith("EDM") and kind != "sample":
        return Convention(
            EDM(float(config.sigma_min), float(config.sigma_max)),
            "edm",
            sigma_data=float(config.sigma_data),
            sign=1.0 if kind == "epsilon" else -1.0,
        )
    if not (hasattr(scheduler, "betas") and hasattr(scheduler, "alphas_cumprod")):
        raise ModelError(
            f"scheduler {name} has no table of betas and is neither a FlowMatch nor an EDM "
            "scheduler; give the pipeline one of the process its network was trained with"
        )
    table = torch.cumprod(1 - torch.as_tensor(scheduler.betas).double().cpu(), 0)
    # with zero SNR at the end the last entry holds no signal: its log SNR is infinite
    return Convention(Tabulated(table[table > 0]), _PREDICTIONS[kind], thresholding=cut)
