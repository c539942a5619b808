"""Our assignment is the optimal one."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

from uniad.verify.assignment import assign


@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (7, 7), (5, 9), (60, 60)])
def test_the_sum_is_the_smallest_there_is(shape):
    for seed in range(5):
        cost = np.random.default_rng(seed).random(shape)
        if seed == 4:
            cost = cost.round(1)  # ties
        column = assign(cost)
        assert len(set(column.tolist())) == len(column)
        assert cost[np.arange(shape[0]), column].sum() == pytest.approx(cost[linear_sum_assignment(cost)].sum(), abs=1e-9)


def test_more_rows_than_columns_are_refused():
    with pytest.raises(ValueError, match="3 rows for 2 columns"):
        assign(np.zeros((3, 2)))
