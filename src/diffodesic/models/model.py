"""A model: a denoiser, the codec between its vectors and images, and where it came from."""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast, get_args

import torch
from torch import Tensor, nn

from diffodesic.denoisers.log_partition import LogPartitionDenoiser
from diffodesic.denoisers.network import NetworkDenoiser
from diffodesic.denoisers.schedules import EDM
from diffodesic.models.codec import Codec, PixelCodec
from diffodesic.models.folder import ModelError, write_model
from diffodesic.models.hub_card import hub_card
from diffodesic.models.learned import nothing_learned
from diffodesic.models.log_partition import LogPartitionNet
from diffodesic.models.unet import UNet

__all__ = ["Conditioner", "Model", "ModelError", "as_model", "require_label", "tried"]

Precision = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Conditioner:
    """Turns a condition in a user's words, such as a prompt, into arguments of the network.

    Attributes:
        names: the words that the model takes, such as ``prompt``; none if it is unconditional.
        encode: takes them by name; its result are arguments of the network for one sample.
    """

    names: tuple[str, ...]
    encode: Callable[..., Mapping[str, Any]]

    def __call__(self, words: Mapping[str, Any]) -> Mapping[str, Any]:
        """Arguments of the network under these words."""
        if unknown := [name for name in words if name not in self.names]:
            raise ModelError(
                f"this model takes no {' or '.join(unknown)}; it takes "
                f"{', '.join(self.names) or 'no condition'}"
            )
        return self.encode(**words)

    @classmethod
    def of_labels(cls, classes: int, encode: Callable[[Tensor], Tensor]) -> Conditioner:
        """The conditioner of a model of classes.

        Args:
            classes: their number; 0 for an unconditional model.
            encode: makes the network's ``class_labels`` of a label, for one sample.

        Returns:
            the conditioner, with the word ``label``.
        """

        def arguments(label: int) -> dict[str, Any]:
            if not 0 <= int(label) < classes:
                raise ModelError(f"label is {label}; this model has classes 0 to {classes - 1}")
            return {"class_labels": encode(torch.tensor(int(label)))}

        return cls(("label",) if classes else (), arguments)


def require_label(arguments: Container[str]) -> None:
    """Refuse to evaluate a model of classes without a label among its arguments."""
    if "class_labels" not in arguments:
        raise ModelError('this model has classes; bind one by given({"label": ...}) (--label)')


@dataclass(frozen=True, repr=False)
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

    def __repr__(self) -> str:
        """One line: the name, what it is of, its levels, and the condition."""
        lowest, highest = self.denoiser.log_snr_range
        shape = " x ".join(map(str, self.codec.shape))
        given = f", given {dict(self.words)}" if self.words else ""
        return f"Model({self.name}, {shape}, log SNR {lowest:.3g} to {highest:.3g}{given})"

    def given(self, condition: Mapping[str, Any]) -> Model:
        """The same model under a condition, which holds for every point of a path.

        Args:
            condition: such as ``{"prompt": "a cat"}`` or ``{"label": 3}``, added to what is bound
                already; for a network of one's own, its keyword arguments.

        Returns:
            the model.

        Raises:
            ModelError: for words that the model does not take.
            NetworkError: for keyword arguments that a network of one's own does not take.
        """
        words = {**self.words, **condition}
        if self.conditioner is not None:
            condition = self.conditioner(words)
        plain = {name: _as_plain(word) for name, word in words.items()}
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
            ModelError: for a chunk below 1, an unknown precision, or a log-partition network that
                would be compiled or evaluated in bfloat16.
        """
        if chunk is not None and chunk < 1:
            raise ModelError(f"chunk must be at least 1, got {chunk}")
        if precision not in (None, *get_args(Precision)):
            known = " or ".join(get_args(Precision))
            raise ModelError(f"unknown precision {precision!r}; choose {known}")
        if isinstance(self.denoiser, LogPartitionDenoiser) and (compile or precision == "bfloat16"):
            raise ModelError(
                f"model {self.name!r} is a log-partition network, known by its derivatives: run it "
                "in float32 and without compile"
            )
        change: dict[str, Any] = {}
        if chunk is not None:
            change["chunk"] = chunk
        if precision is not None:
            change["autocast"] = torch.bfloat16 if precision == "bfloat16" else None
        if compile:
            change |= {"fn": torch.compile(self.denoiser.fn), "jvp_mode": "finite-difference"}
        return replace(self, denoiser=replace(self.denoiser, **change))

    def caveats(self) -> tuple[str, ...]:
        """Sentences that every result of this model should show to its reader."""
        untaught = nothing_learned(self.config.get("training", {}))
        guidance = self.words.get("guidance", 1.0)
        if guidance == 1.0:
            return untaught
        return (
            *untaught,
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
            ModelError: for a model whose network is not diffodesic's own.
        """
        return write_model(directory, *self._saved())

    def save_pretrained(self, directory: str | os.PathLike[str]) -> Path:
        """As :meth:`save`, with the card of a hub: ``hf:OWNER/NAME`` loads such a folder.

        Args:
            directory: the folder.

        Returns:
            the folder; ``README.md`` is a card with metadata, for its author to complete.

        Raises:
            ModelError: for a model whose network is not diffodesic's own.
        """
        config, network = self._saved()
        return write_model(directory, config, network, readme=hub_card(config))

    def _saved(self) -> tuple[dict[str, Any], nn.Module]:
        """What a folder of the model holds."""
        network, schedule = self.denoiser.fn, self.denoiser.schedule
        own = network.network if isinstance(network, LogPartitionNet) else network
        if not (isinstance(own, UNet) and isinstance(schedule, EDM)):
            raise ModelError(
                "only models with diffodesic's own network can be saved; keep the "
                "foreign network's files and load them again"
            )
        config = {
            **self.config,
            "name": self.name,
            "prediction": self.denoiser.prediction,
            "shape": list(self.denoiser.shape),
            "sigma_data": self.denoiser.sigma_data,
            "sigma_min": schedule.sigma_min,
            "sigma_max": schedule.sigma_max,
            "network": own.config,
        }
        if isinstance(network, LogPartitionNet):
            config["log_partition"] = network.config
        return config, cast(nn.Module, network)


def tried(model: Model) -> Model:
    """A model after a trial of its network, under class 0 where no class is bound.

    Args:
        model: the model, its weights loaded.

    Returns:
        the same model.

    Raises:
        NetworkError: if the trial finds a fault; see :meth:`NetworkDenoiser.trial`, also for cost.
    """
    of_classes = model.conditioner is not None and "label" in model.conditioner.names
    bound = model.given({"label": 0}) if of_classes and "label" not in model.words else model
    bound.denoiser.trial()
    return model


def as_model(made: object, name: str, *, source: str) -> Model:
    """What the code of somebody else returned, as a model.

    Args:
        made: a model, or a `NetworkDenoiser` on images (C, H, W), whose data are taken to be pixels
            in [-1, 1].
        name: name of a model that is made of a denoiser.
        source: who returned it, for the message.

    Returns:
        the model.

    Raises:
        ModelError: for anything else.
    """
    if isinstance(made, Model):
        return made
    if isinstance(made, NetworkDenoiser) and len(made.shape) == 3:
        channels, height, width = made.shape
        return Model(made, PixelCodec((channels, height, width)), name)
    raise ModelError(
        f"{source} returned a {type(made).__name__}; it must return a Model, or what from_network "
        "makes with shape=(C, H, W)"
    )


def _as_plain(value: Any) -> Any:
    """A condition as JSON can hold it."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} tensor {tuple(value.shape)}"
    return value if isinstance(value, str | int | float | bool | None) else str(value)
