"""A bare loop of inferences, as a program of its own: what any service around the model has to be measured against."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from edge_detector.backends.tflite import choose_runtime, import_interpreter

WARM_UP = 3


def main() -> None:
    """Arguments: the model's file, threads, seconds; prints inferences per second and the processors that they took."""
    model, threads, seconds = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
    interpreter = import_interpreter(choose_runtime("auto"))(model_path=str(model), num_threads=threads)
    interpreter.allocate_tensors()
    for _ in range(WARM_UP):
        interpreter.invoke()
    count, cpu_s, start_s = 0, time.process_time(), time.perf_counter()
    while (took_s := time.perf_counter() - start_s) < seconds:
        interpreter.invoke()
        count += 1
    print(json.dumps({"fps": count / took_s, "cores": (time.process_time() - cpu_s) / took_s}))


if __name__ == "__main__":
    main()
