"""The picture of a diagnosis."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from diffodesic.output.figures import canvas

__all__ = ["draw"]


def draw(to: Path, diagnosis: Any) -> None:
    """Spectra, dimensions, asymmetry and angles over the levels."""
    with canvas(to, rows=2, columns=2, width=4.5) as (spectra, dimension, symmetry, angles):
        lam = [level.log_snr for level in diagnosis.levels]
        shades = torch.linspace(0.15, 0.8, len(lam)).tolist()
        for level, shade in zip(diagnosis.levels, shades, strict=True):
            values = level.spectrum.nanmean(0)
            spectra.semilogy(
                range(1, len(values) + 1),
                values.clamp(min=1e-4),
                color=(shade, 0.3, 1 - shade),
                label=f"log SNR {level.log_snr:g}",
            )
        spectra.axhline(0.5, color="0.7", lw=0.8)
        spectra.set(xlabel="direction", title="spectrum of dm/dz, means over points")
        spectra.legend()
        panels = (
            (
                dimension,
                "local dimension",
                ("dimension", "loss_dimension", "bundle_dimension", "flipd"),
            ),
            (
                symmetry,
                "skew part of dm/dz, relative",
                ("asymmetry_tangent", "asymmetry_cross", "asymmetry_normal"),
            ),
            (angles, "degrees", ("basis_angle", "score_angle")),
        )
        labels = {
            "dimension": "values above 1/2",
            "loss_dimension": "denoising loss",
            "bundle_dimension": "normal bundle",
            "flipd": "FLIPD",
            "asymmetry_tangent": "tangent space",
            "asymmetry_cross": "across",
            "asymmetry_normal": "normal space",
            "basis_angle": "two tangent spaces",
            "score_angle": "score and normal space",
        }
        for panel, title, names in panels:
            for name in names:
                values = torch.stack([getattr(level, name) for level in diagnosis.levels])
                if bool(values.isnan().all()):
                    continue
                (line,) = panel.plot(lam, values.nanmean(-1), "o-", label=labels[name])
                panel.plot(lam, values, ".", color=line.get_color(), alpha=0.3)
            panel.set(xlabel="log SNR", title=title)
            panel.legend()
