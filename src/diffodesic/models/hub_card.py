"""The card of a model on a hub: ``README.md``, Markdown below metadata in YAML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

__all__ = ["hub_card"]

_TEXT = """\
---
library_name: diffodesic
pipeline_tag: unconditional-image-generation
tags:
- diffusion
- image-generation
- riemannian-geometry
model_name: {quoted}
---

# {name}

A denoiser, m(z, sigma) = E[x0 | z = x0 + sigma eps], of {what} {shape}, for geodesics, distances
and metrics in the geometry that it has learned. `config.json` and `weights.safetensors` are all of
it; reading them runs no code.

```python
import diffodesic as dd

model = dd.load("hf:OWNER/NAME", allow_download=True)  # or the folder of these files
result = dd.interpolate(model, "a.png", "b.png")
```

- Noise levels: sigma from {sigma_min:g} to {sigma_max:g}.
- Condition: {condition}.
{training}"""


def hub_card(config: Mapping[str, Any]) -> str:
    """The card of a model.

    Args:
        config: the content of its ``config.json``.

    Returns:
        the text of ``README.md``.
    """
    labels, trained = config.get("labels", ()), config.get("training", {})
    known = {name: trained[name] for name in ("images", "steps", "batch") if name in trained}
    told = ", ".join(f"{name} {value}" for name, value in known.items())
    return _TEXT.format(
        quoted=json.dumps(config["name"]),
        name=config["name"],
        what="latents" if "codec" in config else "images",
        shape="x".join(map(str, config["shape"])),
        sigma_min=config["sigma_min"],
        sigma_max=config["sigma_max"],
        condition=f"one of {len(labels)} labels" if labels else "none",
        training=f"- Training: {told}.\n" if told else "",
    )
