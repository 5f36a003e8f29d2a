r"""What a network of diffusers was trained with, read from the scheduler saved beside it.

A sampler's steps, spacing and time shift are of no concern here: only the process counts, and what
the network is told at a noise level.

    betas          alpha_t^2 = prod (1 - beta), t = 0 .. T-1       DDPM, DDIM, PNDM, Euler, DPM ...
    flow matching  x_t = (1 - t) x0 + t eps, the network is told T t                 (2403.03206)
    EDM            c_skip z + c_out F(c_in z, log(sigma)/4); for v-prediction F has the other sign
    trigonometric  alpha = cos(pi t/2), sigma_t = sin(pi t/2), v-prediction               IPNDM
    exploding      alpha = 1, a score, the network is told sigma            ScoreSdeVe (2011.13456)

The product is taken in float64 from the saved betas: the scheduler's own float32 table has lost
1 - alpha^2 to rounding at the clean end.  Entries without noise or without signal have no finite
log SNR and are left out.

A class of scheduler, or a field of its config, that is not known here is refused by name.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffodesic.denoisers.network import Prediction
from diffodesic.denoisers.schedules import EDM, Cosine, FlowMatching, Schedule, Tabulated
from diffodesic.models.folder import ModelError

__all__ = ["Convention", "name_set", "read_convention", "refused_scheduler", "unknown_fields"]

_PREDICTIONS: Mapping[str, Prediction] = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def name_set(text: str) -> frozenset[str]:
    """The names that stand in a text."""
    return frozenset(text.split())


# fields that choose a sampler's steps, cuts and corrections: the process is the same
_HARMLESS = name_set(
    """
    algorithm_type base_image_seq_len base_shift clip_sample clip_sample_range correct_steps
    corrector_order disable_corrector dynamic_thresholding_ratio eta euler_at_final
    final_sigmas_type flow_shift interpolation_type lambda_min_clipped lower_order_final
    max_image_seq_len max_shift noise_sampler_seed predict_x0 predictor_order rho s_noise
    sample_max_value sampling_eps set_alpha_to_one shift shift_terminal sigma_schedule
    skip_prk_steps snr solver_order solver_p solver_type steps_offset stochastic_sampling tau_func
    tensor_format thresholding time_shift_type timestep_spacing use_beta_sigmas use_dynamic_shifting
    use_exponential_sigmas use_karras_sigmas use_lu_lambdas variance_type
    """
)
# fields that are read below, where the class of the scheduler reads them too
_READ = name_set(
    """
    beta_end beta_schedule beta_start num_train_timesteps prediction_type rescale_betas_zero_snr
    sigma_data sigma_max sigma_min timestep_type trained_betas use_flow_sigmas
    """
)

_CONSISTENCY = "its network maps noise to the end of the flow, which is no posterior mean"
_TOKENS = "its data are tokens, not vectors with Gaussian noise"
_VIDEO = "it belongs to pipelines of videos, which are not supported"
_REFUSED: Mapping[str, str] = {
    "AmusedScheduler": _TOKENS,
    "BlockRefinementScheduler": _TOKENS,
    "DiscreteDDIMScheduler": _TOKENS,
    "EntropyBoundScheduler": _TOKENS,
    "VQDiffusionScheduler": _TOKENS,
    "CMStochasticIterativeScheduler": _CONSISTENCY,
    "ConsistencyDecoderScheduler": _CONSISTENCY,
    "FlowMapEulerDiscreteScheduler": _CONSISTENCY,
    "FlowMatchLCMScheduler": _CONSISTENCY,
    "HeliosDMDScheduler": _CONSISTENCY,
    "LCMScheduler": _CONSISTENCY,
    "SCMScheduler": _CONSISTENCY,
    "TCDScheduler": _CONSISTENCY,
    "PiflowScheduler": "its network returns a policy of many steps, not a prediction",
    "CogVideoXDDIMScheduler": _VIDEO,
    "CogVideoXDPMScheduler": _VIDEO,
    "HeliosScheduler": _VIDEO,
    "MiniMaxH3Scheduler": _VIDEO,
    "RFD4ProteinaScheduler": "it belongs to a pipeline of proteins, which is not supported",
    "DDPMWuerstchenScheduler": "its pipelines denoise under the latents of a further network",
    "DDIMInverseScheduler": "it tells the network the time of the step after; give the pipeline "
    "the scheduler of its forward process",
    "KarrasVeScheduler": "its pipeline gives the network (x + 1)/2 and sigma/2, and is deprecated",
    "ScoreSdeVpScheduler": "no pipeline of diffusers says what its network is told",
}


@dataclass(frozen=True)
class Convention:
    """The conventions that a network of diffusers was trained with.

    Attributes:
        schedule: the process of training.
        prediction: what the network returns.
        sigma_data: of EDM's preconditioning.
        told: what the network is told at native times (N,).
        sign: what its output is multiplied by.
        thresholding: whether its sampler cuts the predicted data; the geometry does not.
    """

    schedule: Schedule
    prediction: Prediction
    sigma_data: float | None = None
    told: Callable[[Tensor], Tensor] = lambda t: t
    sign: float = 1.0
    thresholding: bool = False


def read_convention(scheduler: Any) -> Convention:
    """Read a scheduler of diffusers.

    Args:
        scheduler: the scheduler, of any sampler for one of the processes above.

    Returns:
        the convention.

    Raises:
        ModelError: for another scheduler or process, an unknown prediction, or a field of the
            config that is not known.
    """
    name = type(scheduler).__name__
    if name not in _READERS:
        raise ModelError(f"scheduler {name} is not supported: {refused_scheduler(name)}")
    if unknown := unknown_fields(scheduler, _READ, _HARMLESS):
        raise ModelError(
            f"the config of scheduler {name} has {' and '.join(unknown)}, which may change the "
            "process and is not known here; remove it if it changes only the sampler's steps"
        )
    try:
        return _READERS[name](scheduler, scheduler.config)
    except ModelError:
        raise
    except ValueError as error:  # of a schedule, which says what is wrong with its numbers
        raise ModelError(f"scheduler {name} has no usable process: {error}") from error


def refused_scheduler(name: str) -> str | None:
    """Why schedulers of a class are not supported; None where they are."""
    if name in _READERS:
        return None
    return _REFUSED.get(name, f"the class is not known; known are {', '.join(sorted(_READERS))}")


def unknown_fields(
    component: Any, read: frozenset[str], harmless: frozenset[str] = frozenset()
) -> list[str]:
    """Fields of a component's config that may change what it computes, as ``name = value``.

    Args:
        component: any component of a pipeline with a ``config``.
        read: fields that the adapter takes into account, where the component's class has them.
        harmless: fields that change nothing, whichever class wrote them.

    Returns:
        the fields that are in neither set, not the default of the component's class, and not empty.
    """
    known, found = inspect.signature(type(component).__init__).parameters, []
    for name, value in component.config.items():
        own = name in known
        if name.startswith("_") or name in harmless or (own and name in read):
            continue
        if value is None or value is False or (own and value == known[name].default):
            continue
        found.append(f"{name} = {value!r}")
    return found


def _prediction(kind: str) -> Prediction:
    if kind not in _PREDICTIONS:
        raise ModelError(
            f"the scheduler's prediction_type is {kind!r}; known are {', '.join(_PREDICTIONS)} "
            "and flow matching"
        )
    return _PREDICTIONS[kind]


def _cut(config: Any) -> bool:
    return bool(config.get("thresholding") or config.get("clip_sample"))


def _betas(scheduler: Any, config: Any) -> Convention:
    """A table of betas; some samplers of such tables also run flows and continuous times."""
    kind = config.get("prediction_type", "epsilon")
    if config.get("use_flow_sigmas"):
        return _flow_of_a_sampler(kind, config)
    if config.get("timestep_type") == "continuous" and kind == "v_prediction":
        return _continuous(scheduler, config)
    prediction = _prediction(kind)
    first, table = _alphas_cumprod(scheduler)
    return Convention(
        Tabulated(table), prediction, told=lambda t: t + first, thresholding=_cut(config)
    )


def _alphas_cumprod(scheduler: Any) -> tuple[int, Tensor]:
    """The first time with noise, and alpha^2 from it on while there is signal, in float64."""
    betas = torch.as_tensor(scheduler.betas).double().cpu()
    if betas.ndim != 1 or not len(betas):
        raise ModelError(f"the scheduler's betas are no table: their shape is {tuple(betas.shape)}")
    wrong = ~((betas >= 0) & (betas <= 1))
    wrong[:-1] |= betas[:-1] == 1
    if bool(wrong.any()):
        place = int(wrong.nonzero()[0])
        raise ModelError(
            f"the scheduler's betas must lie in [0, 1), the last one in [0, 1]: number {place} is "
            f"{float(betas[place]):g}"
        )
    table = torch.cumprod(1 - betas, 0)
    own = torch.as_tensor(scheduler.alphas_cumprod).double().cpu()
    if not bool(torch.isclose(own, table, rtol=1e-3, atol=1e-6).all()):
        raise ModelError(
            "the scheduler's alphas_cumprod is not the product of its 1 - betas: the table is "
            "shifted in a way that is not known here"
        )
    inside = (table > 0) & (table < 1)
    return int((table == 1).sum()), table[inside]


def _flow_of_a_sampler(kind: str, config: Any) -> Convention:
    """Flow matching, run by a sampler for tables of betas; it also takes noise and data."""
    kinds: Mapping[str, Prediction] = {"flow_prediction": "flow", "epsilon": "eps", "sample": "x0"}
    if kind not in kinds:
        raise ModelError(
            f"with use_flow_sigmas the scheduler's prediction_type is {kind!r}; known are "
            f"{', '.join(kinds)}"
        )
    steps = float(config.num_train_timesteps)
    return Convention(
        FlowMatching(), kinds[kind], told=lambda t: t * steps, thresholding=_cut(config)
    )


def _flow(scheduler: Any, config: Any) -> Convention:
    steps = float(config.num_train_timesteps)
    return Convention(FlowMatching(), "flow", told=lambda t: t * steps)


def _continuous(scheduler: Any, config: Any) -> Convention:
    """EDM's preconditioning with data of variance 1, from a sampler for tables of betas."""
    ratio = (1 / _alphas_cumprod(scheduler)[1] - 1).sqrt()
    low = ratio.min() if config.sigma_min is None else config.sigma_min
    high = ratio.max() if config.sigma_max is None else config.sigma_max
    return Convention(EDM(float(low), float(high)), "edm", sigma_data=1.0, sign=-1.0)


def _edm(scheduler: Any, config: Any) -> Convention:
    """EDM's preconditioning; the network is told log(sigma)/4."""
    kind = config.prediction_type
    if kind not in ("epsilon", "v_prediction"):
        raise ModelError(
            f"the scheduler's prediction_type is {kind!r}; EDM's preconditioning has epsilon and "
            "v_prediction"
        )
    return Convention(
        EDM(float(config.sigma_min), float(config.sigma_max)),
        "edm",
        sigma_data=float(config.sigma_data),
        sign=1.0 if kind == "epsilon" else -1.0,
        thresholding=_cut(config),
    )


def _edm_of_angles(scheduler: Any, config: Any) -> Convention:
    """The same; the network is told (2/pi) arctan(sigma)."""
    made = vars(_edm(scheduler, config))
    return Convention(**{**made, "told": lambda t: torch.atan(torch.exp(4 * t)) * (2 / math.pi)})


def _angles(scheduler: Any, config: Any) -> Convention:
    return Convention(Cosine(offset=0.0), "v")


def _exploding(scheduler: Any, config: Any) -> Convention:
    return Convention(EDM(float(config.sigma_min), float(config.sigma_max)), "score")


_READERS: Mapping[str, Callable[[Any, Any], Convention]] = {
    **dict.fromkeys(
        (
            "DDIMParallelScheduler",
            "DDIMScheduler",
            "DDPMParallelScheduler",
            "DDPMScheduler",
            "DEISMultistepScheduler",
            "DPMSolverMultistepInverseScheduler",
            "DPMSolverMultistepScheduler",
            "DPMSolverSDEScheduler",
            "DPMSolverSinglestepScheduler",
            "EulerAncestralDiscreteScheduler",
            "EulerDiscreteScheduler",
            "HeunDiscreteScheduler",
            "KDPM2AncestralDiscreteScheduler",
            "KDPM2DiscreteScheduler",
            "LMSDiscreteScheduler",
            "PNDMScheduler",
            "RePaintScheduler",
            "SASolverScheduler",
            "UnCLIPScheduler",
            "UniPCMultistepScheduler",
        ),
        _betas,
    ),
    "CosineDPMSolverMultistepScheduler": _edm_of_angles,
    "EDMDPMSolverMultistepScheduler": _edm,
    "EDMEulerScheduler": _edm,
    "FlowMatchEulerDiscreteScheduler": _flow,
    "FlowMatchHeunDiscreteScheduler": _flow,
    "IPNDMScheduler": _angles,
    "LTXEulerAncestralRFScheduler": _flow,
    "ScoreSdeVeScheduler": _exploding,
}
