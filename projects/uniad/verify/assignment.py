"""The cheapest one-to-one assignment in plain numpy: what is compared on a Jetson must not need more than JetPack ships."""

from __future__ import annotations

import numpy as np


def assign(cost: np.ndarray) -> np.ndarray:
    """For each row of ``cost`` [R, C >= R] its column, each column once, at the smallest sum (shortest augmenting paths)."""
    rows, cols = cost.shape
    if rows > cols:
        raise ValueError(f"{rows} rows for {cols} columns")
    # One more row and column, number 0, stand for "nobody": the path of every row starts there.
    owner = np.zeros(cols + 1, np.int64)
    price_row, price_col = np.zeros(rows + 1), np.zeros(cols + 1)
    for row in range(1, rows + 1):
        owner[0], col = row, 0
        nearest = np.full(cols + 1, np.inf)
        before = np.zeros(cols + 1, np.int64)
        seen = np.zeros(cols + 1, bool)
        while owner[col]:
            seen[col] = True
            at = owner[col]
            reduced = cost[at - 1] - price_row[at] - price_col[1:]
            closer = ~seen[1:] & (reduced < nearest[1:])
            nearest[1:][closer] = reduced[closer]
            before[1:][closer] = col
            open_ = np.where(seen, np.inf, nearest)
            open_[0] = np.inf
            col = int(open_.argmin())
            step = nearest[col]
            price_row[owner[seen]] += step
            price_col[seen] -= step
            nearest[~seen] -= step
        while col:
            owner[col] = owner[before[col]]
            col = int(before[col])
    column = np.empty(rows, np.int64)
    taken = np.flatnonzero(owner[1:])
    column[owner[1:][taken] - 1] = taken
    return column
