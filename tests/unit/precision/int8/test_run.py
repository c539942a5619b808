"""Which groups keep fp32 before anything is measured, and why."""

from __future__ import annotations

import pytest

from uniad.errors import UserError
from uniad.precision.int8.run import Options, reasons_to_keep

WORK = {"glue": 0.001, "backbone": 0.7, "head": 0.29, "small": 0.004, "smaller": 0.003, "smallest": 0.002}


@pytest.mark.parametrize(
    ("percent", "small"),
    [(0, set()), (0.35, {"smallest"}), (1.0, {"smallest", "smaller", "small"}), (29, {"smallest", "smaller", "small"})],
)
def test_the_smallest_groups_are_left_out_up_to_a_share_of_the_work(percent: float, small: set[str]) -> None:
    reasons = reasons_to_keep(WORK, Options(negligible=percent))
    assert {group for group, why in reasons.items() if why == "negligible"} == small
    assert reasons["glue"] == "glue" and list(reasons) == [group for group in WORK if group in reasons]


def test_what_a_person_keeps_is_kept_for_that_reason() -> None:
    reasons = reasons_to_keep(WORK, Options(keep=("head", "smallest")))
    assert reasons["head"] == reasons["smallest"] == "asked for" and reasons["small"] == "negligible"


@pytest.mark.parametrize("percent", [-1, 51, float("nan")])
def test_a_share_that_leaves_nothing_to_choose_is_refused(percent: float) -> None:
    with pytest.raises(UserError, match="negligible .*from 0 to 50 %"):
        Options(negligible=percent).checked()
