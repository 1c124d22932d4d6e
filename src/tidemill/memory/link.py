"""How long a transfer takes over a link that this machine does not have."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass

from tidemill.errors import ConfigError
from tidemill.memory.kernels import paging


@dataclass(frozen=True, slots=True)
class Link:
    """Latency, bandwidth and depth of a link.

    A transfer of b bytes that is asked for at time t is complete at
    ``max(t, link free) + b / bandwidth + latency``; the link is free again ``latency`` earlier.

    Attributes:
        latency_s: of the first byte, in seconds.
        bandwidth_bytes_s: bytes per second, shared by all transfers.
        outstanding: requests that may be under way at once.
    """

    latency_s: float
    bandwidth_bytes_s: float
    outstanding: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.latency_s < 10:
            raise ConfigError.of("latency_s", self.latency_s, "in [0, 10)", "seconds")
        if not 1e3 <= self.bandwidth_bytes_s <= 1e18:
            raise ConfigError.of(
                "bandwidth_bytes_s", self.bandwidth_bytes_s, "in [1e3, 1e18]", "bytes per second"
            )
        if not 1 <= self.outstanding <= 65_536:
            raise ConfigError.of("outstanding", self.outstanding, "in 1-65536", "requests at once")

    @property
    def latency_ns(self) -> int:
        """Latency in whole nanoseconds."""
        return round(self.latency_s * 1e9)

    @property
    def bytes_per_ns(self) -> float:
        """Bandwidth in bytes per nanosecond."""
        return self.bandwidth_bytes_s / 1e9

    def __str__(self) -> str:
        return f"{self.latency_s * 1e6:g} us, {self.bandwidth_bytes_s / 1e9:g} GB/s"


CXL = Link(350e-9, 22e9, 64)
"""A CXL 2.0 memory device behind a switch-less port."""
RDMA = Link(3.5e-6, 12e9, 128)
"""A 100 Gb/s network card."""


class LinkClock:
    """A link in use: delays what was faster than the link would have been. For any thread."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self._clock = paging().LinkClock(link.latency_ns, link.bytes_per_ns)

    def complete_at(self, now_ns: int, transferred_bytes: int) -> int:
        """When a transfer that is asked for now is complete, in nanoseconds; takes the link."""
        return self._clock.complete_at(now_ns, transferred_bytes)

    @contextmanager
    def transfer(self, transferred_bytes: int) -> Generator[None]:
        """Do the copy inside; leaving waits for the moment that the link would be done."""
        native = paging()
        complete = self._clock.complete_at(native.now_ns(), transferred_bytes)
        yield
        native.wait_until(complete)
