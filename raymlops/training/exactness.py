"""What keeps a run from being repeated to the last bit, known before it starts. Pure."""

from __future__ import annotations

from raymlops.config.tree import Config


def exactness(config: Config, *, cuda: bool, concurrent: int) -> list[str]:
    """One line for each reason why another run of `config` on the same snapshot may end with other weights; empty when
    it will not.

    `cuda`: whether training will be on a CUDA device (`train.device: auto` takes one where there is one).
    `concurrent`: how many trials run side by side. The lines about the search concern which trials are tried and how
    long; the weights of a trial, once it is known for how many epochs it trained, do not depend on its neighbours.
    """
    train, search = config.train, config.search
    reasons = []
    if cuda:
        reasons.append(
            "train.device: on CUDA, operations that have no deterministic algorithm are used all the same; torch warns "
            "of each. Another kind of GPU rounds differently"
        )
    if train.least_workers != train.most_workers:
        reasons.append(
            f"train.workers: with {train.least_workers} to {train.most_workers} workers, sums are rounded by how many "
            "there were at each step; a fixed number is exact"
        )
    elif train.most_workers > 2:
        reasons.append(
            f"train.workers: with {train.most_workers} workers, the order of a sum over them changes in the first step "
            "after a kill; undisturbed runs, and runs with up to 2 workers, are exact"
        )
    if concurrent > 1:
        if search.searcher == "optuna":
            reasons.append(
                f"search.searcher: optuna suggests from the results so far, which with {concurrent} trials at once "
                "depend on timing; search.max_concurrent: 1 or searcher: random is exact"
            )
        if search.scheduler != "fifo":
            reasons.append(
                f"search.scheduler: with {concurrent} trials at once, which of them {search.scheduler} stops depends "
                "on timing; search.max_concurrent: 1 or scheduler: fifo is exact"
            )
    if search.time_budget_s is not None:
        reasons.append(f"search.time_budget_s: how far {search.time_budget_s:g} s reach depends on the machine")
    return reasons
