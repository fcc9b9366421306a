"""How much memory this process has taken at its largest."""

import resource
from pathlib import Path


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
