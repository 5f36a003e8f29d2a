"""The exact denoiser of data on a sphere, against Bessel functions."""

from __future__ import annotations

import pytest
import torch
from scipy.special import ive

from diffodesic.denoisers.sphere import SphereDenoiser
from support.checks import Draw, same


def test_sphere_denoiser_is_the_mean_of_von_mises_and_fisher(draw: Draw):
    """Against Bessel functions, over concentrations from tiny to large."""
    law = SphereDenoiser(5, radius=2.0)
    z, sigma = draw(40, 5), 10 ** torch.linspace(-1.5, 2.5, 40, dtype=torch.float64)
    kappa = 2.0 * z[:, :3].norm(dim=-1) / sigma**2
    ratio = torch.from_numpy(ive(1.5, kappa.numpy()) / ive(0.5, kappa.numpy()))
    exact = 2.0 * ratio.unsqueeze(-1) * z[:, :3] / z[:, :3].norm(dim=-1, keepdim=True)
    same(law(z, sigma)[:, :3], exact)
    assert not bool(law(z, sigma)[:, 3:].any())
    same(law(torch.zeros(5).double(), sigma[0]), torch.zeros(5).double())


@pytest.mark.parametrize("sphere", [1, 3, 9])
def test_spheres_of_other_dimensions_follow_bessel_functions(draw: Draw, sphere: int):
    law = SphereDenoiser(12, radius=2.0, sphere=sphere)
    z, sigma = draw(40, 12), 10 ** torch.linspace(-2.5, 2.5, 40, dtype=torch.float64)
    y = z[:, : sphere + 1]
    size = y.norm(dim=-1, keepdim=True)
    kappa = 2.0 * size / sigma.unsqueeze(-1) ** 2
    order = (sphere - 1) / 2
    ratio = torch.from_numpy(ive(order + 1, kappa.numpy()) / ive(order, kappa.numpy()))
    # the bound at the top is off by 1e-8 at most where the recurrence does not forget it
    torch.testing.assert_close(
        law(z, sigma)[:, : sphere + 1], 2 * ratio * y / size, rtol=2e-8, atol=0
    )
    assert not bool(law(z, sigma)[:, sphere + 1 :].any())
    same(law.sample(3).norm(dim=-1), torch.full((3,), 2.0).double())
    with pytest.raises(ValueError, match="dim > sphere"):
        SphereDenoiser(3, sphere=3)
