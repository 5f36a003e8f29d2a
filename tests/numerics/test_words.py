import math

import torch

from diffodesic.numerics.words import brief


def test_one_value_many_values_and_none():
    values = {
        "length": torch.tensor(4.99654),
        "errors": torch.tensor([0.25, math.nan, 2.0]),
        "judged": torch.full((2,), math.nan),
        "fid": None,
        "pairs": 45,
        "level": 2.0,
    }
    assert brief(values) == "length 4.997, errors 0.25 to 2 (3), pairs 45, level 2"
