"""The table of scripts/atypicality.py."""

import numpy as np
import pytest

from scripts.atypicality import cell, main
from utils.errors import UserError


def test_cell_has_the_area_and_the_share_of_others_that_pass():
    usual = np.arange(100.0)  # 95 % of them are up to 94.05
    other = np.array([50.0] * 10 + [200.0] * 30)
    wins = 10 * 50.5 + 30 * 100  # pairs in which the other image has the larger score; an equal one is a half
    assert cell(usual, other) == f"{wins / 4000:.3f}, 0.25"
    assert cell(usual, other[:19]) == "-"


def test_checkpoint_of_another_data_set_is_refused(trained_digits):
    with pytest.raises(UserError, match="has other classes than FashionMNIST_LT: name a checkpoint of that data set"):
        main([f"{trained_digits}/checkpoint.pth"])
