"""What `make bench` measures, by name. Each case is a module: `measure` takes a scene and gives findings."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from benchmarks.figures import Findings
from benchmarks.scene import Scene

from . import agents, console, idle, memory, one, rate, small, uplink

Case = Callable[[Scene], Findings]

CASES: Mapping[str, Case] = MappingProxyType(
    {
        "one": one.measure,
        "agents": agents.measure,
        "small": small.measure,
        "memory": memory.measure,
        "idle": idle.measure,
        "uplink": uplink.measure,
        "rate": rate.measure,
        "console": console.measure,
    }
)
