"""One size and one kind of work: which setting is a peer's best, then all sides in turn. Knows no target."""

from __future__ import annotations

import itertools
import json
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from measure import Failed
from outcome import OURS, QUIET, Outcome, Side
from servers import Answer, Server

BREAK = 2.0
"""Seconds until a measurement that others disturbed is tried again."""

STEPS = {"S": 20, "M": 6, "L": 4, "default": 20, "smolvlm": 1}
"""Of one measurement, besides the first, which is not timed."""

PASSIVE = {"OMP_WAIT_POLICY": "passive"}


@dataclass(frozen=True)
class Place:
    """Who works on what."""

    size: str
    folder: Path
    """What `peers/make_work.py` has made."""
    server: Path
    python: Path
    peers: Path
    threads: int
    rounds: int
    patience: int

    def ours(self) -> list[str]:
        return [str(self.server), "--model", str(self.folder / "model"), "--work", str(self.folder / "work.json"),
                "--threads", str(self.threads)]

    def peer(self, script: str) -> list[str]:
        return [str(self.python), str(self.peers / script), str(self.folder)]

    @cached_property
    def sizes(self) -> dict[str, object]:
        return json.loads((self.folder / "size.json").read_text())


@dataclass(frozen=True)
class Setting:
    """How a peer is run."""

    passive: bool
    """Threads that wait sleep immediately instead of spinning."""
    request: dict[str, object]

    @property
    def environment(self) -> dict[str, str]:
        return PASSIVE if self.passive else {}

    def text(self) -> str:
        told = [f"{name} {value}" for name, value in self.request.items() if not isinstance(value, bool)]
        return ", ".join([*told, *(["OMP passive"] if self.passive else [])])


@dataclass
class Competitor:
    side: Side
    server: Server
    request: dict[str, object]


def calibrate(place: Place, name: str, script: str, requests: list[dict[str, object]], work: dict) -> Setting:
    """The setting under which a peer takes the least time."""
    tried: list[tuple[float, Setting]] = []
    for passive in (False, True):
        setting = Setting(passive, {})
        with Server(place.peer(script), setting.environment) as server:
            for request in requests:
                times = []
                # The first time is a warm-up, which counts only where it is the faster one.
                for _ in range(2):
                    times.append(patiently(place, server, {**work, **request}).wall)
                tried.append((min(times), Setting(passive, request)))
    tried.sort(key=lambda pair: pair[0])
    told = "; ".join(f"{setting.text()}: {seconds:.2f} s" for seconds, setting in tried)
    print(f"{place.size}: settings of {name}, best first: {told}", flush=True)
    return tried[0][1]


def patiently(place: Place, server: Server, request: dict[str, object]) -> Answer:
    """Asks again while the machine is not ours; the least disturbed answer."""
    answers = []
    for attempt in range(1 + place.patience):
        if attempt > 0:
            time.sleep(BREAK)
        answers.append(server.ask(**request))
        if answers[-1].others <= QUIET:
            break
    return min(answers, key=lambda answer: answer.others)


def take_turns(place: Place, competitors: list[Competitor]) -> None:
    for _ in range(place.rounds):
        for competitor in list(competitors):
            try:
                competitor.side.answers.append(patiently(place, competitor.server, competitor.request))
            except Failed as error:
                drop(place, competitors, competitor, error)
    for competitor in competitors:
        competitor.side.peak_mib = competitor.server.peak_mib()


def drop(place: Place, competitors: list[Competitor], competitor: Competitor, error: Failed) -> None:
    """A peer that fails is out; we are not."""
    if competitor.side.name == OURS:
        raise error
    print(f"{competitor.side.name} is out at {place.size}: {error}", file=sys.stderr)
    competitors.remove(competitor)


def ours(place: Place, stack: ExitStack, work: dict) -> Competitor:
    server = stack.enter_context(Server(place.ours()))
    return Competitor(Side(OURS, f"threads {place.threads}"), server, work)


def peer(place: Place, stack: ExitStack, name: str, script: str, setting: Setting, work: dict) -> Competitor:
    server = stack.enter_context(Server(place.peer(script), setting.environment))
    return Competitor(Side(name, setting.text()), server, {**work, **setting.request})


def first_answers(place: Place, competitors: list[Competitor], change: dict[str, object]) -> None:
    """What is not timed: a warm-up, by which the sides must agree."""
    for competitor in list(competitors):
        try:
            competitor.side.first = competitor.server.ask(**{**competitor.request, **change}).told
        except Failed as error:
            drop(place, competitors, competitor, error)


def train(place: Place, compile: bool) -> Outcome:
    steps = STEPS[place.size]
    work = {"do": "train", "steps": steps}
    name = "transformers" if place.sizes["eyes"] else "PyTorch"
    requests = [{"threads": threads, "optimizer": optimizer, "compile": False}
                for threads, optimizer in itertools.product(sorted({1, place.threads}), ("fused", "foreach"))]
    best = calibrate(place, name, "train.py", requests, work)
    with ExitStack() as stack:
        competitors = [
            ours(place, stack, work),
            peer(place, stack, f"{name}, eager", "train.py", best, work),
        ]
        if compile:
            compiled = Setting(best.passive, {**best.request, "threads": place.threads, "compile": True})
            competitors.append(peer(place, stack, f"{name}, compiled", "train.py", compiled, work))
        first_answers(place, competitors, {})
        take_turns(place, competitors)
    tokens = place.sizes["rows"] * place.sizes["inputs"]
    return Outcome(place.size, "train", "ms / step", tokens, steps, [c.side for c in competitors])


def generate(place: Place, _: bool) -> Outcome:
    work = {"do": "generate", "greedy": False}
    prompts = place.sizes["prompts"]
    requests = [{"threads": threads, "together": together}
                for threads, together in itertools.product(sorted({1, place.threads}), (1, 2, 4, 8))
                if together <= prompts]
    best = calibrate(place, "transformers", "rollouts.py", requests, work)
    with ExitStack() as stack:
        competitors = [
            ours(place, stack, work),
            peer(place, stack, "transformers", "rollouts.py", best, work),
        ]
        first_answers(place, competitors, {"greedy": True})
        take_turns(place, competitors)
    tokens = competitors[0].side.answers[0].told["tokens"] // prompts
    return Outcome(place.size, "generate", "ms / prompt", tokens, prompts, [c.side for c in competitors])
