"""A model: a denoiser, the codec between its vectors and images, and where it came from.

``load`` takes the name of a shipped model, a folder written by :meth:`Model.save` or by
``diffodesic train``, or a source with a prefix that ``adapters`` knows.  Weights are safetensors;
nothing is unpickled or downloaded unless the caller says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import Codec
from diffodesic.models.unet import UNet
from diffodesic.output.folder import replace_files
from diffodesic.output.records import write_json

__all__ = ["Conditioner", "Model", "ModelError"]


_SHIPPED = Path(__file__).parent / "assets"

# points per call of the network: enough to keep a device busy, little memory
CHUNK, CHUNK_ACCELERATED = 128, 4096

Precision = Literal["float32", "bfloat16"]

_FILES = ("config.json", "weights.safetensors")


class ModelError(ValueError):
    """A model cannot be loaded or saved; the message says what to change."""


@dataclass(frozen=True)
class Conditioner:
    """What a user says, as arguments of the network.

    Attributes:
        names: what can be said, such as ``prompt``; none for an unconditional model.
        encode: arguments of the network for it, each for one sample.
    """

    names: tuple[str, ...]
    encode: Callable[..., Mapping[str, Any]]

    def __call__(self, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arguments of the network under these words, (whatever shapes it takes)."""
        if unknown := [name for name in words if name not in self.names]:
            raise ModelError(
                f"this model takes no {' or '.join(unknown)}; it takes "
                f"{', '.join(self.names) or 'no condition'}"
            )
        return self.encode(**words)


@dataclass(frozen=True)
class Model:
    """A denoiser with its codec and name.

    Attributes:
        denoiser: posterior mean of the model.
        codec: between images and vectors.
        name: short name.
        config: what the model was saved with.
        conditioner: from words to arguments of the network; None where they are the same.
        words: the condition in the user's words.
    """

    denoiser: NetworkDenoiser
    codec: Codec
    name: str
    config: Mapping[str, Any] = field(default_factory=dict)
    conditioner: Conditioner | None = field(default=None, kw_only=True, repr=False)
    words: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    def given(self, condition: Mapping[str, Any]) -> Model:
        """The same model under a condition, which holds for every point of a path.

        Args:
            condition: such as ``{"prompt": "a cat"}`` or ``{"label": 3}``, added to what is bound
                already; for a network of one's own, its keyword arguments.

        Returns:
            the model.

        Raises:
            ModelError: for words that the model does not take.
        """
        words = {**self.words, **condition}
        if self.conditioner is not None:
            condition = self.conditioner(words)
        elif "prompt" in condition:
            raise ModelError(f"model {self.name!r} takes no prompt")
        plain = {name: _in_words(word) for name, word in words.items()}
        return replace(self, denoiser=self.denoiser.given(condition), words=plain)

    def running(
        self,
        *,
        chunk: int | None = None,
        precision: Precision | None = None,
        compile: bool = False,
    ) -> Model:
        """The same model, its network run in another way; geometry stays in float64.

        Args:
            chunk: inputs per call of the network; None leaves it.
            precision: ``float32``, or ``bfloat16`` for evaluations: about 3 digits of a network's
                output; exact derivatives stay in float32. None leaves it.
            compile: pass the network through ``torch.compile``, which takes a minute once for
                every size of batch; derivatives are then finite differences of evaluations.

        Returns:
            the model.

        Raises:
            ModelError: for a chunk below 1 or an unknown precision.
        """
        if chunk is not None and chunk < 1:
            raise ModelError(f"chunk must be at least 1, got {chunk}")
        if precision not in (None, *get_args(Precision)):
            known = " or ".join(get_args(Precision))
            raise ModelError(f"unknown precision {precision!r}; choose {known}")
        change: dict[str, Any] = {}
        if chunk is not None:
            change["chunk"] = chunk
        if precision is not None:
            change["autocast"] = torch.bfloat16 if precision == "bfloat16" else None
        if compile:
            change |= {"fn": torch.compile(self.denoiser.fn), "jvp_mode": "finite-difference"}
        return replace(self, denoiser=replace(self.denoiser, **change))

    def caveats(self) -> tuple[str, ...]:
        """What a reader of any result of this model should know of it."""
        guidance = self.words.get("guidance", 1.0)
        if guidance == 1.0:
            return ()
        return (
            f"with guidance {guidance:g} the model is no posterior mean: lengths are those of "
            "the guided field; guidance 1 gives the geometry of the data under the prompt",
        )

    def save(self, directory: str | os.PathLike[str]) -> Path:
        """Write ``config.json`` and ``weights.safetensors`` into a folder, made if needed.

        Args:
            directory: the folder.

        Returns:
            the folder.

        Raises:
            ModelError: for a model that was not made of diffodesic's own network.
        """
        from safetensors.torch import save_file

        network, schedule = self.denoiser.fn, self.denoiser.schedule
        if not (isinstance(network, UNet) and isinstance(schedule, EDM)):
            raise ModelError(
                "only models with diffodesic's own network can be saved; keep the "
                "foreign network's files and load them again"
            )
        config = {
            **self.config,
            "name": self.name,
            "prediction": self.denoiser.prediction,
            "shape": list(self.codec.shape),
            "sigma_data": self.denoiser.sigma_data,
            "sigma_min": schedule.sigma_min,
            "sigma_max": schedule.sigma_max,
            "network": network.config,
        }
        weights = {k: v.contiguous() for k, v in network.state_dict().items()}
        with replace_files(directory) as folder:
            write_json(folder / _FILES[0], config)
            save_file(weights, folder / _FILES[1])
        return Path(directory)


def _in_words(value: Any) -> Any:
    """A condition as a result can keep it."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _move(network: UNet, device: torch.device | str) -> None:
    """Move to a device and see that it can be read from, as it cannot on ``meta``."""
    try:
        # convolutions on a CPU run half again as fast with the channels last
        network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        next(network.parameters()).sum().item()
    except (RuntimeError, AssertionError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ModelError(
            f"the network cannot run on device {str(device)!r} ({reason}); try cpu"
        ) from error
