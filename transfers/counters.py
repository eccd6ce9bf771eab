"""What this process has counted since it started, for `metrics`. No Django.

Counters only: what the database knows is asked there, when somebody wants to know.
"""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

registry = CollectorRegistry()

RECEIVED = Counter(
    "silentmode_received_bytes",
    "Bytes of files that this process has written to disk.",
    registry=registry,
)
WIRE = Counter(
    "silentmode_wire_bytes",
    "Bytes of payloads as they came over the wire for those files.",
    registry=registry,
)
ENDED = Counter(
    "silentmode_transfers_ended",
    "Transfers that this process has ended, by their status and error code.",
    ("status", "code"),
    registry=registry,
)
SET_BACK = Counter(
    "silentmode_attempts_ended",
    "Attempts that this process saw end without the file, by the code of the reason.",
    ("code",),
    registry=registry,
)
SECONDS = Histogram(
    "silentmode_transfer_seconds",
    "From the first byte of a transfer to its landing, pauses and all.",
    buckets=(0.1, 0.5, 1, 5, 15, 60, 300, 1800, 7200, 43_200, 172_800),
    registry=registry,
)
SIZES = Histogram(
    "silentmode_transfer_bytes",
    "Sizes of files that have landed.",
    buckets=tuple(1024 * 16**power for power in range(7)),
    registry=registry,
)
AGENTS = Gauge(
    "silentmode_agents",
    "Agents that are connected to this process.",
    registry=registry,
)


def landed(seconds: float, size: int) -> None:
    """A file of so many bytes has landed, so long after its first one."""
    SECONDS.observe(seconds)
    SIZES.observe(size)
