"""Where a training step goes: each operation's time, its work, and how far it is from what the processor can do."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from contest import STEPS, Place, patiently
from measure import Verdict, table
from servers import Server

PRODUCTS = ("linear", "linear, input gradient", "linear, weight gradient", "head", "head, backward", "head, weight gradient")
"""Operations that are matrix products and little else."""

SHARE_OF_PEAK = 0.8
"""That they must reach, on the sizes below."""

JUDGED = ("M", "L")


@dataclass(frozen=True)
class Round:
    """One training, and what the machine could do beside it: how fast it is depends on what else its host runs."""

    costs: dict[str, dict]
    whole: float
    """Seconds of all threads together."""
    peak: float
    """Floating-point operations per second of a thread, at most."""

    def products(self) -> float:
        """What the matrix products reach of the peak."""
        found = [self.costs[name] for name in PRODUCTS if name in self.costs]
        return sum(cost["flops"] for cost in found) / sum(cost["seconds"] for cost in found) / self.peak


def kernels(place: Place) -> list[Verdict]:
    """Prints the table of a size: of several rounds, the median one."""
    steps = STEPS[place.size]
    with Server(place.ours()) as server:
        server.ask(do="train", steps=steps)
        rounds = sorted((measure(place, server) for _ in range(place.rounds)), key=Round.products)
    print_round(place, rounds[len(rounds) // 2])
    if place.size not in JUDGED:
        return []
    shares = [found.products() for found in rounds]
    median = statistics.median(shares)
    return [Verdict(f"{place.size}, matrix products of the peak", f">= {SHARE_OF_PEAK:.0%}",
                    f"{median:.0%} ({shares[0]:.0%}..{shares[-1]:.0%})", median >= SHARE_OF_PEAK)]


def measure(place: Place, server: Server) -> Round:
    peak = server.ask(do="peak", threads=place.threads).told["flops_per_second"] / place.threads
    told = patiently(place, server, {"do": "train", "steps": STEPS[place.size], "operations": True}).told
    return Round(told["operations"], told["wall"] * place.threads, peak)


def print_round(place: Place, found: Round) -> None:
    steps, costs, whole = STEPS[place.size], found.costs, found.whole
    rows = []
    for name, cost in sorted(costs.items(), key=lambda item: -item[1]["seconds"]):
        seconds, flops = cost["seconds"], cost["flops"]
        rows.append([
            name, f"{cost['calls'] / steps:,.0f}", f"{seconds / steps * 1e3:.2f}", f"{seconds / whole:.1%}",
            f"{flops / steps / 1e9:.3f}" if flops else "", f"{cost['bytes'] / steps / 2**20:,.1f}",
            f"{flops / seconds / found.peak:.0%}" if flops else "", f"{cost['bytes'] / seconds / 1e9:.1f}",
        ])
    rest = whole - sum(cost["seconds"] for cost in costs.values())
    rows.append(["everything else", "", f"{rest / steps * 1e3:.2f}", f"{rest / whole:.1%}", "", "", "", ""])
    head = ["operation", "calls", "ms", "share", "GFLOP", "MiB", "of peak", "GB/s"]
    print(f"{place.size}: a training step on {place.threads} thread(s), whose times are added up; a thread's peak is "
          f"{found.peak / 1e9:.0f} GFLOP/s\n")
    print(table(head, rows, left=1) + "\n", flush=True)
