"""A server's counts in Prometheus's text format."""

import os
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path


class Histogram:
    """Numbers counted under upper bounds."""

    def __init__(self, name: str, *bounds: float):
        self.name, self.bounds, self.total = name, bounds, 0.0
        self.counts = [0] * (len(bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class Metrics:
    """What a server has done since it started; requests by (route, method, status)."""

    def __init__(self):
        self.requests: Counter[tuple[str, str, int]] = Counter()
        bounds = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
        self.seconds = Histogram("adios_request_seconds", *bounds)
        self.batches = Histogram("adios_batch_images", 1, 2, 4, 8, 16, 32, 64, 128)

    def text(self, values: Mapping[str, float]) -> str:
        """Returns the page, with further values by name: counters end in _total."""
        lines = ["# TYPE adios_requests_total counter"]
        for key, count in sorted(self.requests.items()):
            labels = 'route="{}",method="{}",status="{}"'.format(*key)
            lines.append(f"adios_requests_total{{{labels}}} {count}")
        for found in (self.seconds, self.batches):
            lines.append(f"# TYPE {found.name} histogram")
            for bound, count in zip((*found.bounds, "+Inf"), accumulate(found.counts), strict=True):
                lines.append(f'{found.name}_bucket{{le="{bound}"}} {count}')
            lines.append(f"{found.name}_sum {found.total:g}")
            lines.append(f"{found.name}_count {sum(found.counts)}")
        for name, value in values.items():
            kind = "counter" if name.endswith("_total") else "gauge"
            lines += [f"# TYPE {name} {kind}", f"{name} {value:.0f}"]
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Returns the memory that this process holds; 0 on a system without /proc."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0
