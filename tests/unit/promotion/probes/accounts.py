"""Accounts of requests that were made up."""

from __future__ import annotations

from collections.abc import Iterable

from ci.promotion.probes.prober import Account, Sample, Tally


def account(samples: Iterable[Sample], *, sent: int, begun: float, ended: float) -> Account:
    tally = Tally(begun)
    for sample in sorted(samples, key=lambda each: each.ended):
        tally.add(sample)
    return tally.account(sent=sent, ended=ended)
