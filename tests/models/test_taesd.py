"""Pictures through TAESD: the published network, latents of a known size, and what is refused."""

import math

import pytest
import torch

from diffodesic import shipped_photographs
from diffodesic.models.model import ModelError
from diffodesic.models.taesd import SPREAD, TaesdCodec, load_codec, load_taesd, normalisation


@pytest.fixture(scope="module")
def codec() -> TaesdCodec:
    return TaesdCodec(load_taesd(), (3, 64, 64), (0.9, 0.4, -0.5, -0.2), (0.6, 0.4, 0.9, 0.6))


def test_photographs_come_back(codec):
    images, names = shipped_photographs(64, 64)
    assert names == ("apple", "lemon")
    z = codec.encode(images.double())
    assert (z.shape, z.dtype) == ((2, 4 * 8 * 8), torch.float64)
    error = (codec.decode(z) - images).square().mean((1, 2, 3))
    # at 128 pixels 23.8 to 34.4 dB over 58 photographs, median 29.6; finer detail costs some at 64
    assert float((-10 * error.log10()).min()) > 24
    torch.testing.assert_close(codec.encode(images[None])[0], z.float())  # whatever the batch


def test_mean_and_scale_are_undone(codec):
    plain = TaesdCodec(codec.autoencoder, codec.shape)
    images = shipped_photographs(64, 64)[0]
    latents = plain.encode(images).unflatten(-1, plain.latent_shape)
    scaled = codec.encode(images).unflatten(-1, codec.latent_shape)
    mean, scale = (torch.tensor(x)[:, None, None] for x in (codec.mean, codec.scale))
    torch.testing.assert_close(scaled, (latents - mean) * scale)
    torch.testing.assert_close(codec.decode(scaled.flatten(1)), plain.decode(latents.flatten(1)))


def test_decoding_has_both_derivatives(codec):
    g = torch.Generator().manual_seed(1)
    z, v = 0.5 * torch.randn(2, 1, 256, generator=g)
    u = torch.randn(1, 3, 64, 64, generator=g)
    right = torch.func.jvp(codec.decode, (z,), (v,))[1]
    left = torch.func.vjp(codec.decode, z)[1](u)[0]
    torch.testing.assert_close((u * right).sum(), (left * v).sum(), rtol=1e-3, atol=1e-3)
    assert float(right.abs().max()) > 0


def test_normalisation_gives_the_spread():
    g = torch.Generator().manual_seed(2)
    latents = (
        torch.randn(30, 4, 3, 3, generator=g) * torch.tensor([1.0, 2, 3, 4])[:, None, None] + 5
    )
    mean, scale = (torch.tensor(x)[:, None, None] for x in normalisation(latents))
    spread, centre = torch.std_mean((latents - mean) * scale, (0, 2, 3))
    torch.testing.assert_close(spread, torch.full((4,), SPREAD))
    torch.testing.assert_close(centre, torch.zeros(4), rtol=0, atol=1e-5)


def test_codec_comes_back_from_its_config(codec):
    again = load_codec(codec.config(), codec.latent_shape)
    assert (again.shape, again.mean, again.scale) == (codec.shape, codec.mean, codec.scale)


@pytest.mark.parametrize(
    ("change", "shape", "words"),
    [
        ({"name": "taesd3"}, (4, 8, 8), "codec of the model is 'taesd3'; only taesd"),
        ({}, (16, 8, 8), "latents of 16 channels and taesd makes 4"),
        ({"mean": [0.0]}, (4, 8, 8), "each with its mean and scale"),
        ({"scale": [0.0] * 4}, (4, 8, 8), "each with its mean and scale"),
    ],
)
def test_other_codecs_are_refused(codec, change, shape, words):
    with pytest.raises(ModelError, match=words):
        load_codec({**codec.config(), **change}, shape)


@pytest.mark.parametrize("shape", [(1, 64, 64), (3, 60, 64), (3, 64, 100)])
def test_pictures_that_have_no_latents_are_refused(codec, shape):
    with pytest.raises(ModelError, match=r"divisible by 8, not .*: give a size \(--size\)"):
        TaesdCodec(codec.autoencoder, shape)


def test_pixels_outside_their_range_are_refused(codec):
    image = torch.full((3, 64, 64), 0.5)
    for broken in (image + 1, image * math.nan, image[:, :32]):
        with pytest.raises(ValueError, match=r"between 0 and 1|not finite|this model takes"):
            codec.encode(broken)
