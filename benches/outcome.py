"""What a contest found: its table, whether the sides computed the same, and the targets. Knows no process."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field

from measure import Verdict, middle, table
from servers import Answer

OURS = "ablate"

QUIET = 0.05
"""Of the machine that others may take during a measurement that counts."""

FASTER = {
    ("S", "train"): 2.5, ("M", "train"): 1.8, ("L", "train"): 1.4,
    ("S", "generate"): 10.0, ("default", "generate"): 10.0, ("M", "generate"): 4.0,
    ("smolvlm", "train"): 1.3, ("smolvlm", "generate"): 5.0,
}
"""Times by which the peer's median must exceed ours."""

MEMORY = 1 / 3
"""Of PyTorch's in training, at most."""

PASSES = 2
"""Times that all prompts are answered in a measurement of rollouts, of which the last is timed."""

LOSSES = 1e-3
"""Relative difference of the losses of equal steps, at most."""


@dataclass
class Side:
    """One competitor's measurements."""

    name: str
    setting: str
    first: dict = field(default_factory=dict)
    """Its warm-up answer."""
    answers: list[Answer] = field(default_factory=list)
    peak_mib: float = 0.0

    def walls(self) -> list[float]:
        return [answer.wall for answer in self.answers]

    def disturbed(self) -> bool:
        return statistics.median(answer.others for answer in self.answers) > QUIET


@dataclass
class Outcome:
    size: str
    work: str
    unit: str
    """Of what the table tells: time of a part of the work."""
    tokens: int
    """Of a part."""
    parts: int
    """Of the work of one measurement: steps, or prompts."""
    sides: list[Side]
    """Ours first, then the one that the targets are about."""

    def ratio(self, side: Side) -> float:
        return statistics.median(side.walls()) / statistics.median(self.sides[0].walls())

    def peer(self) -> Side | None:
        return self.sides[1] if len(self.sides) > 1 else None


def print_outcome(outcome: Outcome, peak: float) -> None:
    ours = outcome.sides[0]
    flops = ours.answers[0].told.get("flops", 0.0)
    rows = []
    for side in outcome.sides:
        median = statistics.median(side.walls())
        computed = len(side.first.get("losses", [])) or outcome.parts * PASSES
        rows.append([
            side.name,
            side.setting,
            f"{outcome.tokens * outcome.parts / median:,.0f}",
            middle([wall / outcome.parts * 1e3 for wall in side.walls()]),
            f"{statistics.median(answer.cpu for answer in side.answers) / computed * 1e3:.1f}",
            "" if side is ours else f"{outcome.ratio(side):.2f} x",
            f"{side.peak_mib:.0f}",
            "" if side is ours else f"{ours.peak_mib / side.peak_mib:.2f}",
            f"{flops / median / peak:.0%}" if flops else "",
            f"{side.first['losses'][-1]:.5f}" if "losses" in side.first else "",
            f"{max(answer.others for answer in side.answers):.0%}",
        ])
    print(f"{outcome.size}, {outcome.work}: {outcome.parts} x {outcome.tokens:,} tokens\n")
    head = ["side", "setting", "tokens/s", outcome.unit, "CPU ms", "/ ours", "peak MiB", "ours / it", "of peak",
            "last loss", "others"]
    print(table(head, rows, left=2), end="\n\n", flush=True)


def verdicts(outcomes: list[Outcome]) -> list[Verdict]:
    found = []
    for outcome in outcomes:
        found += agreement(outcome)
        found += faster(outcome)
        if outcome.work == "train":
            found.append(lighter(outcome))
    return found


def agreement(outcome: Outcome) -> list[Verdict]:
    """What is compared must be the same computation."""
    ours = outcome.sides[0].first
    found = []
    for side in outcome.sides[1:]:
        what = f"{outcome.size} {outcome.work}, ablate and {side.name} agree"
        if outcome.work == "train":
            pairs = list(zip(ours["losses"], side.first["losses"], strict=True))
            most = max(abs(a - b) / abs(b) for a, b in pairs)
            found.append(Verdict(what, f"losses of {len(pairs)} steps within {LOSSES}", f"{most:.1e}", most <= LOSSES))
        else:
            pairs = list(zip(ours["responses"], side.first["responses"], strict=True))
            equal = sum(a == b for a, b in pairs)
            value = f"{equal} of {len(pairs)}"
            found.append(Verdict(what, "equal greedy responses", value, equal == len(pairs)))
    return found


def faster(outcome: Outcome) -> list[Verdict]:
    target, peer = FASTER.get((outcome.size, outcome.work)), outcome.peer()
    if target is None:
        return []
    what = f"{outcome.size} {outcome.work}"
    if peer is None:
        return [Verdict(what, f">= {target} x", "not measured", None)]
    ratio = outcome.ratio(peer)
    if outcome.sides[0].disturbed() or peer.disturbed():
        return [Verdict(what, f">= {target} x", f"{ratio:.2f} x on a machine that was not ours alone", None)]
    return [Verdict(what, f">= {target} x", f"{ratio:.2f} x as fast as {peer.name}", ratio >= target)]


def lighter(outcome: Outcome) -> Verdict:
    peer, ours = outcome.peer(), outcome.sides[0]
    what, target = f"{outcome.size} {outcome.work}, peak memory", f"<= {MEMORY:.2f}"
    if peer is None:
        return Verdict(what, target, "not measured", None)
    share = ours.peak_mib / peer.peak_mib
    return Verdict(what, target, f"{share:.2f} of {peer.name}'s", share <= MEMORY)
