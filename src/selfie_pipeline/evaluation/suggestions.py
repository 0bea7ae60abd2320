"""Choice of the images most worth labeling: the classifier is unsure, and they differ.

The method is diverse mini-batch active learning (Zhdanov 2019, https://arxiv.org/abs/1901.05954):
the images with the smallest margins are candidates; weighted k-means groups their vectors, and the
candidate nearest to each centre is chosen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.preprocessing import normalize
from threadpoolctl import threadpool_limits

_SMALLEST_WEIGHT = 1e-9
"""Weight of an image that the classifier is certain of: some, so that k-means can be computed."""


def select_diverse(
    vectors: NDArray[np.float32], margins: NDArray[np.float64], count: int, seed: int
) -> NDArray[np.int64]:
    """Choose candidates that are different from each other.

    Args:
        vectors: (M, D): the candidates' vectors; only their directions count.
        margins: (M,): the probability of the most likely class minus that of the runner-up;
            k-means weights a candidate by 1 - margin.
        count: Number of candidates to choose; all of them if there are not more.
        seed: Seed of the first centres.

    Returns:
        (min(M, count),), int64: the chosen candidates, by ascending margin. They do not depend on
        the number of threads. If fewer than `count` vectors are distinct, the candidates with the
        smallest margins complete them.
    """
    by_margin = np.argsort(margins, kind="stable")  # (M,)
    if count >= len(margins):
        return by_margin
    directions = normalize(vectors)  # (M, D)
    clusters = min(count, len(np.unique(directions, axis=0)))
    weights = np.maximum(1 - margins, _SMALLEST_WEIGHT)  # (M,)
    with threadpool_limits(limits=1):  # sums over threads have no fixed order
        kmeans = KMeans(clusters, n_init=1, random_state=seed).fit(directions, None, weights)
    distances = np.linalg.norm(directions - kmeans.cluster_centers_[kmeans.labels_], axis=1)  # (M,)
    by_distance = np.lexsort((distances, kmeans.labels_))  # (M,)
    _, first = np.unique(kmeans.labels_[by_distance], return_index=True)
    nearest = by_distance[first]  # (clusters,)
    others = by_margin[~np.isin(by_margin, nearest)]
    chosen = np.concatenate([nearest, others[: count - len(nearest)]])  # (count,)
    return by_margin[np.isin(by_margin, chosen)]
