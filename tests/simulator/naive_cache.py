"""A naive prefix cache as an oracle: lists of whole prefixes."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(eq=False)
class NaiveBlock:
    prefix: tuple[str | None, tuple[int, ...]] | None = None  # salt, and all tokens up to its end
    users: int = 0


@dataclass(eq=False)
class NaiveRequest:
    salt: str | None
    tokens: list[int]
    blocks: list[NaiveBlock] = field(default_factory=list)


class NaiveCache:
    """The rules that vLLM publishes: hits are whole blocks, freed from the end, oldest evicted first."""

    def __init__(self, usable_blocks: int, block_size: int) -> None:
        self.size = block_size
        self.free = [NaiveBlock() for _ in range(usable_blocks)]
        self.filled: list[NaiveBlock] = []  # blocks with a prefix, in the order of filling

    def hits(self, request: NaiveRequest) -> list[NaiveBlock]:
        found: list[NaiveBlock] = []
        end = self.size
        while end < len(request.tokens):  # never the block with the last token in it
            wanted = (request.salt, tuple(request.tokens[:end]))
            block = next((each for each in self.filled if each.prefix == wanted), None)
            if block is None:
                break
            found.append(block)
            end += self.size
        return found

    def begin(self, request: NaiveRequest) -> bool:
        hits = self.hits(request)
        needed = -(-len(request.tokens) // self.size) - len(hits)
        left = [block for block in self.free if block not in hits]
        if needed > len(left):
            return False
        self.free = left
        for block in hits:
            block.users += 1
        request.blocks = hits
        return True

    def extend(self, request: NaiveRequest, tokens: int) -> bool:
        needed = -(-tokens // self.size) - len(request.blocks)
        if needed > len(self.free):
            return False
        for _ in range(needed):
            block = self.free.pop(0)
            if block in self.filled:
                self.filled.remove(block)
            block.prefix, block.users = None, 1
            request.blocks.append(block)
        for place, block in enumerate(request.blocks[: tokens // self.size]):
            if block.prefix is None:
                block.prefix = (request.salt, tuple(request.tokens[: (place + 1) * self.size]))
                self.filled.append(block)
        return True

    def release(self, request: NaiveRequest) -> None:
        gone = []
        for block in request.blocks[::-1]:
            block.users -= 1
            if block.users == 0:
                gone.append(block)
        self.free = (
            [block for block in gone if block.prefix is None]
            + self.free
            + [block for block in gone if block.prefix is not None]
        )
        request.blocks = []
