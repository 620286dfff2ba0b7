"""A plain loop: features of the newest frame, as fast as they come.

python examples/loop.py [SOURCE] [MODEL]
"""

import sys

import brixel_edge


def main(source: str = "demo:", model: str | None = None, frames: int | None = None) -> int:
    """Say where in each frame the thing is that lay in the middle of the first one."""
    things, seen = brixel_edge.Prototypes(), 0
    for features in brixel_edge.stream(model, source=source):
        if "thing" not in things:
            height, width = features.frame_size
            things.add("thing", features, x=width // 2, y=height // 2)
        match = things.find(features)["thing"]
        print(f"frame {features.frame_index}: score {match.score:.2f} at {match.point}, box {match.box}")
        seen += 1
        if seen == frames:
            break
    return seen


if __name__ == "__main__":
    main(*sys.argv[1:3])
