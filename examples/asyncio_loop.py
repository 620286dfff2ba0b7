"""Features in an asyncio program: the stream runs in a thread, the event loop never waits for it.

python examples/asyncio_loop.py [SOURCE] [MODEL]
"""

import asyncio
import sys
from collections.abc import AsyncIterator

import brixel_edge


async def features_of(source: str, model: str | None) -> AsyncIterator[brixel_edge.FeatureMap]:
    """The maps of a stream. A slow consumer gets the newest: the stream's own thread drops what is older."""
    stream = brixel_edge.stream(model, source=source)
    try:
        while (features := await asyncio.to_thread(next, stream, None)) is not None:
            yield features
    finally:
        await asyncio.to_thread(stream.close)


async def heartbeat(beats: list[float], pause_s: float = 0.02) -> None:
    """Something else that the program does meanwhile."""
    while True:
        beats.append(asyncio.get_running_loop().time())
        await asyncio.sleep(pause_s)


async def main(source: str = "demo:", model: str | None = None, frames: int | None = None) -> tuple[int, int]:
    """Print each map; returns how many there were, and how often the heart beat."""
    beats: list[float] = []
    other = asyncio.create_task(heartbeat(beats))
    maps = features_of(source, model)
    seen = 0
    try:
        async for features in maps:
            print(f"frame {features.frame_index}: {features.values.shape}, {len(beats)} beats")
            seen += 1
            if seen == frames:
                break
    finally:
        await maps.aclose()
        other.cancel()
    return seen, len(beats)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:3]))
