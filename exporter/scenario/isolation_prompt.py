"""The prompt of the isolation test: plain sentences behind a nonce, as few as its length needs."""

from __future__ import annotations

from exporter.scenario.model import Scenario, ScenarioKind

_NOTE = " Shelf {number} holds {parcels} parcels, and the van takes them in the morning."


def isolation_prompt(nonce: str) -> ScenarioKind:
    """A prompt that is new if `nonce` is new. It has no system message and no tools."""

    def build(padding: int) -> Scenario:
        text, number = f"{nonce}\n", 0
        while len(text) < padding:
            number += 1
            text += _NOTE.format(number=number, parcels=number * 7 % 31)
        opening = {"role": "user", "content": f"{text}\nHow many shelves are there?"}
        return Scenario("isolation", (), ((opening,), ({"role": "user", "content": "Go on."},)))

    return ScenarioKind("isolation", build)
