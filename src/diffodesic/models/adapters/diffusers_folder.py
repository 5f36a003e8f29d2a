"""Folders of pipelines, as ``save_pretrained`` of diffusers writes them, and what is not one.

Weights are read from safetensors, whole or in shards, of any variant such as ``fp16``.  Pickles
(``.bin``) are read only where the caller allows it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from logging import FATAL
from pathlib import Path
from typing import Any

from diffodesic.models.adapters.diffusers_pipelines import UNUSED, find_kind
from diffodesic.models.folder import ModelError
from diffodesic.output.files import not_a_file
from diffodesic.output.records import read_json

__all__ = ["open_pipeline"]

_INDEX = "model_index.json"
_PICKLES = (".bin", ".ckpt", ".pt", ".pth")


def open_pipeline(rest: str, *, allow_download: bool, allow_pickle: bool) -> Any:
    """Open a folder, or a repository from the cache.

    Args:
        rest: the folder, or ``owner/name`` of a repository.
        allow_download: fetch a repository that is not in the cache.
        allow_pickle: read weights from pickles where there are no others.

    Returns:
        the pipeline.

    Raises:
        ModelError: for a folder that lacks something, names what is not known, or is no pipeline.
    """
    folder = Path(rest)
    here = folder.is_dir()
    if not here:
        _check_repository(rest)
    safe = None if allow_pickle else True
    try:
        with _quiet() as pipeline:
            if not here:
                fetched = pipeline.download(
                    rest, local_files_only=not allow_download, use_safetensors=safe
                )
                folder = Path(fetched)
            absent = _check_folder(folder, allow_pickle)
            return pipeline.from_pretrained(
                folder,
                local_files_only=True,
                low_cpu_mem_usage=False,  # needs a further library
                use_safetensors=safe,
                **absent,
            )
    except ModelError:
        raise
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        hint = (
            "one of its files is damaged or from another version of diffusers"
            if here
            else "it is no folder here, and nothing is downloaded without allow_download=True "
            "(--allow-download)"
        )
        raise ModelError(f"{rest!r} cannot be loaded by diffusers: {hint} ({reason})") from error


def _check_repository(rest: str) -> None:
    """Refuse what is neither a folder nor a name of a repository."""
    path = Path(rest)
    if path.is_file() or path.suffix in (".safetensors", *_PICKLES):
        raise ModelError(
            f"{rest} is a single file, and a pipeline is a folder: open it with from_single_file "
            "of its pipeline in diffusers, and give the folder that save_pretrained writes"
        )
    if path.is_absolute() or rest.startswith((".", "~")) or rest.count("/") != 1:
        raise ModelError(
            f"there is no folder {rest}; give a folder with a {_INDEX}, or owner/name of a "
            "repository"
        )


def _check_folder(folder: Path, allow_pickle: bool) -> dict[str, Any]:
    """Arguments for a folder's pipeline; refuse what it lacks and what is not known."""
    name, parts = _read_index(folder)
    find_kind(name, [part for part, library in parts.items() if library is not None])
    absent: dict[str, Any] = {
        part: None for part, library in parts.items() if library is None or part in UNUSED
    }
    present = [part for part in parts if part not in absent]
    missing = [part for part in present if not (folder / part).is_dir()]
    if missing:
        raise ModelError(f"{folder} lacks {' and '.join(missing)}, which {_INDEX} names")
    if "safety_checker" in parts:
        absent["requires_safety_checker"] = False
    for part in present:
        _check_files(folder / part)
    variants = {_variant(folder / part, allow_pickle) for part in present} - {None}
    if len(variants) > 1:
        raise ModelError(
            f"{folder} holds weights of the variants {' and '.join(sorted(map(str, variants)))}; "
            "keep one"
        )
    return {**absent, "variant": variants.pop()} if variants else absent


def _check_files(part: Path) -> None:
    """Refuse a component with a pipe or a device among its files, or weights that are damaged."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(part.iterdir()):
        try:
            kind = not_a_file(path)
            if not kind and path.suffix == ".safetensors":
                with safe_open(path, "pt"):  # reads the head alone
                    pass
        except (OSError, SafetensorError) as error:
            raise ModelError(f"{path} cannot be read ({error}); copy it again") from error
        if kind not in ("", "a folder"):
            raise ModelError(f"{path} is {kind}, not a file: copy it again")


def _read_index(folder: Path) -> tuple[str, dict[str, str | None]]:
    """Class of a folder's pipeline, and the library of each of its components."""
    index = folder / _INDEX
    if not index.is_file():
        raise ModelError(f"{folder} holds no pipeline of diffusers: {_instead(folder)}")
    try:
        content = read_json(index)
        name = content["_class_name"]
        parts = {part: value[0] for part, value in content.items() if isinstance(value, list)}
    except (ValueError, AttributeError, LookupError, TypeError) as error:
        raise ModelError(f"{index} is not written by diffusers ({error!r})") from error
    if not isinstance(name, str):
        raise ModelError(f"{index} names a pipeline of its own code, {name!r}, which is not run")
    return name, parts


def _instead(folder: Path) -> str:
    """What a folder without an index holds."""
    none = f"there is no {_INDEX} in it"
    if (folder.parent / _INDEX).is_file():
        return f"{none}; it is one component, give the folder above it, diffusers:{folder.parent}"
    inner = sorted(path.parent for path in folder.glob(f"*/{_INDEX}"))
    if inner:
        return f"{none}; give diffusers:{inner[0]}"
    files = sorted(p.name for p in folder.glob("*") if p.suffix in (".safetensors", *_PICKLES))
    if files:
        return (
            f"{none}; {files[0]} is a single file, open it with from_single_file of its pipeline "
            "in diffusers, and give the folder that save_pretrained writes"
        )
    return none


def _variant(part: Path, allow_pickle: bool) -> str | None:
    """Variant of a component's weights, such as fp16; None for plain ones, or a part without."""
    names = [path.name for path in part.iterdir() if path.is_file()]
    tensors = [name for name in names if name.endswith(".safetensors")]
    pickles = [name for name in names if name.endswith(_PICKLES)]
    if pickles and not tensors:
        if not allow_pickle:
            raise ModelError(
                f"{part} holds its weights as a pickle only ({pickles[0]}), and reading one may "
                "run code of its author; if you trust it, give allow_pickle=True (--allow-pickle)"
            )
        tensors = [name for name in pickles if not name.startswith(("optimizer", "scheduler"))]
    found = {_variant_of(name) for name in tensors}
    variant = None if None in found or not found else min(map(str, found))
    if tensors:
        _check_shards(part, tensors[0].rpartition(".")[2], variant)
    return variant


def _variant_of(name: str) -> str | None:
    """The variant in a file's name: BASE.EXT, BASE.VARIANT.EXT, BASE.VARIANT-1-of-2.EXT."""
    words = name.split(".")[1:-1]
    plain = [word.partition("-")[0] for word in words]
    return plain[0] if plain else None


def _check_shards(part: Path, kind: str, variant: str | None) -> None:
    """Refuse a component that lacks a file which the index of its shards names."""
    for index in part.glob(f"*.{kind}.*json"):
        words = set(index.name.split(".")[2:]) - {"index", "json"}
        if words != ({variant} if variant else set()):
            continue  # that of another variant, which may have been left out
        try:
            wanted = set(read_json(index)["weight_map"].values())
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ModelError(f"{index} is no index of weights ({error!r})") from error
        if missing := sorted(name for name in wanted if not (part / name).is_file()):
            raise ModelError(f"{part} lacks {missing[0]}, which {index.name} names")


@contextmanager
def _quiet() -> Iterator[Any]:
    """``DiffusionPipeline`` without log messages and progress bars; exceptions still come."""
    try:
        from diffusers.utils import logging
    except ImportError as error:
        raise ImportError(
            f"{error}: pipelines need the extra, pip install 'diffodesic[diffusers]'"
        ) from error
    loggers = [logging]
    try:
        from transformers.utils import logging as other

        loggers.append(other)
    except ImportError:
        pass  # pipelines without prompts do not need it
    levels = [each.get_verbosity() for each in loggers]
    bars = [each.is_progress_bar_enabled() for each in loggers]
    try:
        for each in loggers:
            each.set_verbosity(FATAL)
            each.disable_progress_bar()
        from diffusers import DiffusionPipeline

        yield DiffusionPipeline
    finally:
        for each, level, bar in zip(loggers, levels, bars, strict=True):
            each.set_verbosity(level)
            if bar:
                each.enable_progress_bar()
