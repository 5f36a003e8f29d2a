"""Models of the hub, from a cache on this disk: nothing is fetched in a test."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import diffodesic as dd
from diffodesic.models.model import ModelError
from support.tiny import pictures, tiny_model

hub = pytest.importorskip("huggingface_hub", reason="the extra `hub`")

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Put a folder into a cache of the hub, as a download leaves it."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))

    def put(folder: Path, repository: str, revision: str = "main", commit: str = COMMIT) -> Path:
        home = tmp_path / "hub" / f"models--{repository.replace('/', '--')}"
        (home / "refs").mkdir(parents=True, exist_ok=True)
        (home / "refs" / revision).write_text(commit)
        return Path(shutil.copytree(folder, home / "snapshots" / commit))

    return put


def test_a_model_of_the_cache_is_the_model(cache, tmp_path):
    model = tiny_model()
    cache(model.save_pretrained(tmp_path / "saved"), "own/spots-8")
    found = dd.load("hf:own/spots-8")
    assert found.name == "spots-8"
    codes = model.codec.encode(pictures(2)).float()
    sigma = torch.tensor(0.5)
    torch.testing.assert_close(found.denoiser(codes, sigma), model.denoiser(codes, sigma))


def test_a_revision_is_a_branch_a_tag_or_a_commit(cache, tmp_path):
    saved = tiny_model().save_pretrained(tmp_path / "saved")
    cache(saved, "own/er", revision="v1", commit="a" * 40)
    assert dd.load("hf:own/er@v1").name == "er"
    assert dd.load(f"hf:own/er@{'a' * 40}").name == "er"
    with pytest.raises(ModelError, match=r"own/er@v2 is not in the cache .* \(--allow-download\)"):
        dd.load("hf:own/er@v2")


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("own/none", "own/none is not in the cache of the hub, and nothing is downloaded"),
        ("own", "is no address on the hub; write hf:OWNER/NAME"),
        ("own/er/more", "is no address on the hub"),
        ("../er", "is no address on the hub"),
        ("own/er@", "is no address on the hub"),
    ],
)
def test_what_is_not_there_is_one_sentence(cache, address, message):
    with pytest.raises(ModelError, match=re.escape(message)):
        dd.load(f"hf:{address}")


def test_nothing_is_fetched_unless_that_is_allowed(monkeypatch):
    asked: list[dict[str, object]] = []

    def snapshot(repository: str, **given: object) -> str:
        asked.append(given)
        raise hub.errors.LocalEntryNotFoundError("offline")

    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    for allowed in (False, True):
        with pytest.raises(ModelError, match="cannot be reached" if allowed else "allow_download"):
            dd.load("hf:own/er", allow_download=allowed)
    assert [given["local_files_only"] for given in asked] == [True, False]
    patterns = asked[0]["ignore_patterns"]
    assert isinstance(patterns, list)
    assert {"*.bin", "*.pt", "*.pkl"} <= set(patterns)


def test_a_folder_for_the_hub_has_a_card_with_metadata(tmp_path):
    folder = tiny_model().save_pretrained(tmp_path / "saved")
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "weights.safetensors", "README.md"} <= names
    text = (folder / "README.md").read_text()
    card = hub.ModelCard(text)
    assert card.data.library_name == "diffodesic"
    assert card.data.model_name == "tiny"
    assert "riemannian-geometry" in card.data.tags
    assert "images 1x8x8" in card.text
    assert dd.load(folder).name == "tiny"


def test_without_the_extra_the_sentence_names_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"pip install 'diffodesic\[hub\]'"):
        dd.load("hf:own/er")
