"""What GPUs can do by their data sheets: the floor under any time is what these rates allow."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """Bytes per second of memory, dense FLOP per second in bf16 and fp16, in TF32, and in fp32."""

    name: str
    bandwidth: float
    half: float
    tf32: float
    single: float

    def floor(self, flops: float, bytes_moved: float, rate: str = "half") -> float:
        """Seconds that the work takes at least; rate: half, tf32 or single."""
        speed: float = getattr(self, rate)
        return max(flops / speed, bytes_moved / self.bandwidth)


GPUS = (
    Gpu(name="A100 SXM 80 GB", bandwidth=2.04e12, half=312e12, tf32=156e12, single=19.5e12),
    Gpu(name="H100 SXM", bandwidth=3.35e12, half=989e12, tf32=494e12, single=67e12),
)
