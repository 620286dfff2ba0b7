"""The measured process: one engine, opened here and nowhere else, so that its memory is its own.

Started as `python -m brixel_edge.runtimes.bench.child`; reads requests and writes answers as JSON lines. The first
request opens the engine; then `{"run": n}` times n calls, `{"end": true}` tells the peak memory and ends.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from brixel_edge.errors import BrixelError
from brixel_edge.machine.memory import peak_rss_bytes
from brixel_edge.runtimes.engines import open_runtime
from brixel_edge.runtimes.runtime import Runtime, RuntimeSettings


def _opened(request: dict[str, Any]) -> tuple[Runtime, dict[str, Any]]:
    start_s = time.perf_counter()
    settings = RuntimeSettings(threads=request["threads"], openvino_precision=request["openvino_precision"])
    runtime = open_runtime(Path(request["path"]), request["backend"], settings)
    facts = {
        "load_s": time.perf_counter() - start_s,
        "device_bytes": getattr(runtime, "device_bytes", None),
    }
    return runtime, facts


def main() -> int:
    """Serve one parent until it says end, or is gone."""
    request = json.loads(sys.stdin.readline())
    try:
        runtime, facts = _opened(request)
    except BrixelError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return error.exit_code
    image = np.random.default_rng(0).integers(0, 256, (1, *request["size"], 3), dtype=np.uint8)
    print(json.dumps(facts), flush=True)
    for line in sys.stdin:
        order = json.loads(line)
        if "run" not in order:
            break
        times_ms = []
        for _ in range(order["run"]):
            start_s = time.perf_counter()
            runtime.infer(image)
            times_ms.append((time.perf_counter() - start_s) * 1e3)
        print(json.dumps({"times_ms": times_ms}), flush=True)
    runtime.close()
    print(json.dumps({"peak_bytes": peak_rss_bytes()}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
