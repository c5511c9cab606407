"""What happens to an engine while a session is played against it."""

from __future__ import annotations

from exporter.engine.wire.request import ChatRequest


def before_turn(at, number, act):
    """Call `act` before the request of turn `number`. Repeats and controls are not counted."""
    chat, turns = at.client.chat, []

    async def disturbed(request, *arguments):
        if request.max_tokens > 1 and len(request.messages) not in turns:
            turns.append(len(request.messages))
            if len(turns) == number:
                await act()
        return await chat(request, *arguments)

    at.client.chat = disturbed


async def others_use(at, sessions, characters=6000):
    """That many prompts of other clients, each under its own salt."""
    for number in range(sessions):
        text = f"Other {number}. " + "lorem ipsum dolor sit amet " * (characters // 27)
        request = ChatRequest("simulated", [{"role": "user", "content": text}], 1, f"o{number}")
        assert (await at.client.chat(request, at.plan.deadlines)).failure is None
