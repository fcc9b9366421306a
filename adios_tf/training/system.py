"""What this process has used: peak memory, and the time of steps that take turns."""

import resource
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm


class Timed(NamedTuple):
    """Seconds of each round of one step: by the clock, and of all processors together."""

    wall: list[float]
    cpu: list[float]


def time_in_turn(
    steps: Mapping[str, Callable[[], object]],
    rounds: int,
    between: Callable[[], object] | None = None,
) -> dict[str, Timed]:
    """Times steps by name round by round, each once a round, so that noise meets all alike.

    Each is run once before it is timed, which traces it; `between` is called after every round.
    """
    for step in tqdm(steps.values(), desc="tracing", unit="step"):
        step()
    timed = {name: Timed([], []) for name in steps}
    for _ in tqdm(range(rounds), desc="timing", unit="round"):
        for name, step in steps.items():
            started, worked = time.perf_counter(), time.process_time()
            step()
            timed[name].wall.append(time.perf_counter() - started)
            timed[name].cpu.append(time.process_time() - worked)
        if between is not None:
            between()
    return timed


def peak_memory_mb() -> float:
    """Returns the peak resident memory of this process in MB.

    Read from /proc where there is one: what `getrusage` says is inherited from the parent, so a
    child of a large process would report the parent's peak.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
