"""Where a training step goes: each operation's time, its work, and how far it is from what the processor can do."""

from __future__ import annotations

from contest import STEPS, Place
from measure import Verdict, table
from servers import Server

PRODUCTS = ("linear", "linear, back to input", "linear, back to weight", "head", "head, back", "head, back to weight")
"""Operations that are matrix products and little else."""

SHARE_OF_PEAK = 0.8
"""That they must reach, on the sizes below."""

JUDGED = ("M", "L")


def kernels(place: Place, peak: float) -> list[Verdict]:
    """Prints the table of a size. `peak`: floating-point operations per second of all threads at most."""
    steps, each = STEPS[place.size], peak / place.threads
    with Server(place.ours()) as server:
        server.ask(do="train", steps=steps)
        told = server.ask(do="train", steps=steps, operations=True).told
    costs: dict[str, dict] = told["operations"]
    whole = told["wall"] * place.threads
    rows = []
    for name, cost in sorted(costs.items(), key=lambda item: -item[1]["seconds"]):
        seconds, flops = cost["seconds"], cost["flops"]
        rows.append([
            name, f"{cost['calls'] / steps:,.0f}", f"{seconds / steps * 1e3:.2f}", f"{seconds / whole:.1%}",
            f"{flops / steps / 1e9:.3f}" if flops else "", f"{cost['bytes'] / steps / 2**20:,.1f}",
            f"{flops / seconds / each:.0%}" if flops else "", f"{cost['bytes'] / seconds / 1e9:.1f}",
        ])
    rest = whole - sum(cost["seconds"] for cost in costs.values())
    rows.append(["everything else", "", f"{rest / steps * 1e3:.2f}", f"{rest / whole:.1%}", "", "", "", ""])
    head = ["operation", "calls", "ms", "share", "GFLOP", "MiB", "of peak", "GB/s"]
    print(f"{place.size}: a training step on {place.threads} thread(s), whose times are added up\n")
    print(table(head, rows, left=1) + "\n", flush=True)
    products = [costs[name] for name in PRODUCTS if name in costs]
    reached = sum(cost["flops"] for cost in products) / sum(cost["seconds"] for cost in products) / each
    if place.size not in JUDGED:
        return []
    return [Verdict(f"{place.size}, matrix products of the peak", f">= {SHARE_OF_PEAK:.0%}", f"{reached:.0%}",
                    reached >= SHARE_OF_PEAK)]
