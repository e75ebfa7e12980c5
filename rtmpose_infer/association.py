"""Who is who: similarities between people, and the assignment with the greatest total similarity.

The assignment is exact, and written here because it is the only thing the core would need SciPy for. A crowd's
similarity matrix is nearly empty once far pairs are ruled out, so it falls apart into small groups; each group is
solved by itself, which is what keeps fifty people cheap in Python.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rtmpose_infer.errors import InputError, ShapeError

__all__ = ["linear_assignment", "match", "pose_similarity"]

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.intp]


def linear_assignment(cost: npt.ArrayLike) -> tuple[Indices, Indices]:
    """Return the row and column indices of the pairing with the least total cost.

    Every row (or every column, if there are fewer of them) gets a partner. Shortest augmenting paths with dual
    variables: Jonker and Volgenant, "A shortest augmenting path algorithm for dense and sparse linear assignment
    problems", Computing 38, 1987.

    Args:
        cost: (N, M) finite numbers.

    Returns:
        rows, cols: (min(N, M),) each, rows ascending.

    Raises:
        ShapeError: Not a matrix.
        InputError: A cost is NaN or infinite.

    >>> rows, cols = linear_assignment([[4, 1, 3], [2, 0, 5]])
    >>> rows.tolist(), cols.tolist()
    ([0, 1], [1, 0])
    """
    costs = np.asarray(cost, np.float64)
    if costs.ndim != 2:
        raise ShapeError("cost", expected="(N, M)", actual=costs.shape)
    if not np.isfinite(costs).all():
        raise InputError(
            "cost: expected finite numbers, got NaN or infinity; forbid a pair with a large cost or use match()."
        )
    if costs.shape[0] > costs.shape[1]:
        cols, rows = _assign_rows(costs.T)
        order = np.argsort(rows)
        return rows[order], cols[order]
    return _assign_rows(costs)


def _assign_rows(costs: npt.NDArray[np.float64]) -> tuple[Indices, Indices]:
    """Give each of the rows (no more than columns) a column of its own."""
    count, width = costs.shape
    row_price = np.zeros(count)
    col_price = np.zeros(width)
    row_of_col = np.full(width, -1, np.intp)
    col_of_row = np.full(count, -1, np.intp)

    # A first pairing at zero reduced cost: each row's cheapest column, first come first served.
    row_price[:] = costs.min(axis=1) if width else 0.0
    for row, col in enumerate(costs.argmin(axis=1) if width else ()):
        if row_of_col[col] < 0:
            row_of_col[col], col_of_row[row] = row, col

    for start in np.flatnonzero(col_of_row < 0).tolist():
        distance = np.full(width, np.inf)
        parent = np.full(width, -1, np.intp)
        done = np.zeros(width, bool)
        row, so_far = int(start), 0.0
        while True:
            through = so_far + costs[row] - row_price[row] - col_price
            better = ~done & (through < distance)
            distance[better] = through[better]
            parent[better] = row
            open_distance = np.where(done, np.inf, distance)
            col = int(open_distance.argmin())
            so_far = open_distance[col]
            if row_of_col[col] < 0:
                break
            done[col] = True
            row = int(row_of_col[col])
        slack = so_far - distance[done]
        col_price[done] -= slack
        row_price[start] += so_far
        row_price[row_of_col[done]] += slack
        while True:
            row = int(parent[col])
            row_of_col[col] = row
            col_of_row[row], col = col, int(col_of_row[row])
            if row == start:
                break
    return np.arange(count, dtype=np.intp), col_of_row


def match(similarity: Floats, allowed: Bools) -> tuple[Indices, Indices]:
    """Return the pairs, all of them allowed, with the greatest total similarity; nobody has to have a partner.

    Args:
        similarity: (N, M) float, positive where allowed.
        allowed: (N, M) bool.

    Returns:
        rows, cols: (P,) each, rows ascending.

    >>> rows, cols = match(np.array([[0.9, 0.8], [0.8, 0.1]]), np.array([[True, True], [True, True]]))
    >>> rows.tolist(), cols.tolist()
    ([0, 1], [1, 0])
    """
    pair_rows, pair_cols = np.nonzero(allowed)
    if not len(pair_rows):
        return np.zeros(0, np.intp), np.zeros(0, np.intp)
    row_degree = np.bincount(pair_rows, minlength=similarity.shape[0])
    col_degree = np.bincount(pair_cols, minlength=similarity.shape[1])
    lonely = (row_degree[pair_rows] == 1) & (col_degree[pair_cols] == 1)
    rows, cols = [pair_rows[lonely]], [pair_cols[lonely]]
    for group_rows, group_cols in _groups(pair_rows[~lonely], pair_cols[~lonely]):
        block = np.ix_(group_rows, group_cols)
        gain = np.where(allowed[block], similarity[block], 0.0)
        chosen_rows, chosen_cols = linear_assignment(-gain)
        real = allowed[block][chosen_rows, chosen_cols]
        rows.append(group_rows[chosen_rows[real]])
        cols.append(group_cols[chosen_cols[real]])
    all_rows, all_cols = np.concatenate(rows), np.concatenate(cols)
    order = np.argsort(all_rows)
    return all_rows[order], all_cols[order]


def _groups(pair_rows: Indices, pair_cols: Indices) -> list[tuple[Indices, Indices]]:
    """Split pairs into groups that share no row and no column with another."""
    leader: dict[int, int] = {}

    def find(node: int) -> int:
        while leader[node] != node:
            leader[node] = leader[leader[node]]
            node = leader[node]
        return node

    rows, cols = pair_rows.tolist(), pair_cols.tolist()
    for row, col in zip(rows, cols, strict=True):
        col = -1 - col  # noqa: PLW2901  # columns live on the negative numbers
        leader.setdefault(row, row)
        leader.setdefault(col, col)
        leader[find(row)] = find(col)
    members: dict[int, tuple[list[int], list[int]]] = {}
    for node in leader:
        group_rows, group_cols = members.setdefault(find(node), ([], []))
        if node >= 0:
            group_rows.append(node)
        else:
            group_cols.append(-1 - node)
    return [(np.array(r, np.intp), np.array(c, np.intp)) for r, c in members.values()]


def pose_similarity(
    keypoints_a: Floats,
    keypoints_b: Floats,
    both_valid: Bools,
    *,
    sizes_px: Floats,
    sigmas: Floats,
) -> Floats:
    """Return the (P,) object keypoint similarity of P pairs of poses, 0 to 1.

    COCO's definition: the mean over the joints valid in both of exp(−d² / (2·s²·(2σ)²)), s² being the area;
    ``geometry.oks_matrix`` has that of all pairs.

    Args:
        keypoints_a: (P, K, 2) float32 frame pixels.
        keypoints_b: (P, K, 2) float32.
        both_valid: (P, K) bool, the joints to compare; a pair without any has similarity 0.
        sizes_px: (P,) float32, s: the square root of the person's area.
        sigmas: (K,) the skeleton's OKS sigmas.

    >>> one = np.zeros((1, 2, 2), np.float32)
    >>> pose_similarity(one, one, np.ones((1, 2), bool), sizes_px=np.ones(1), sigmas=np.full(2, 0.05)).tolist()
    [1.0]
    """
    difference = keypoints_a - keypoints_b
    squared = difference[..., 0] ** 2 + difference[..., 1] ** 2
    spread = 2 * np.maximum(sizes_px, 1e-3)[:, None] ** 2 * (2 * sigmas) ** 2
    joints = np.where(both_valid, np.exp(-np.where(both_valid, squared / spread, 0)), 0)
    similarity: Floats = joints.sum(axis=1) / np.maximum(both_valid.sum(axis=1), 1)
    return similarity
