"""The codec of latents with the real weights of a small autoencoder."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from diffodesic.output.images import read_image


def tiny_autoencoder(folder: Path) -> Any:
    """The real weights of TAESD, named as diffusers names them."""
    diffusers = pytest.importorskip("diffusers")
    from safetensors.torch import load_file

    vae = diffusers.AutoencoderTiny()
    encoder = load_file(folder / "taesd_encoder.safetensors")
    decoder = load_file(folder / "taesd_decoder.safetensors")
    weights = {f"encoder.layers.{name}": w.float() for name, w in encoder.items()}
    for name, w in decoder.items():  # its first layer, without weights, is no layer there
        index, _, rest = name.partition(".")
        weights[f"decoder.layers.{int(index) - 1}.{rest}"] = w.float()
    vae.load_state_dict(weights)
    return vae.eval()


@pytest.mark.slow
def test_photographs_go_through_the_real_autoencoder_and_back(data_folder, capsys):
    from diffodesic.models.adapters.latents import latent_codec

    codec = latent_codec(tiny_autoencoder(data_folder / "taesd"), (4, 32, 32), frozenset())
    assert codec.shape == (3, 256, 256)
    found = {}
    for path in sorted((data_folder / "natural_images").glob("*.[pj][np]g")):
        image = read_image(path, codec.shape)[0].double()
        z = codec.encode(image)
        assert z.shape == (4 * 32 * 32,)
        error = float((codec.decode(z) - image).square().mean())
        found[path.name] = -10 * math.log10(error)
    with capsys.disabled():
        print("\nPSNR in dB:", ", ".join(f"{name} {psnr:.1f}" for name, psnr in found.items()))
    assert len(found) == 5
    # 20 to 27 dB is what this autoencoder is known for; the rocket is mostly sky and has 27.1
    assert all(20 <= psnr < 27.5 for psnr in found.values())
