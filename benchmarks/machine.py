"""What the machine at hand can do: the limits that decoding is measured against."""

from __future__ import annotations

import platform
import time
from pathlib import Path

import torch


def sync(device: torch.device) -> None:
    """Wait for what a GPU is still doing, so that a clock tells the truth."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def named(device: torch.device) -> str:
    """The machine in one line."""
    if device.type == "cuda":
        where = torch.cuda.get_device_name(device)
    else:
        where = f"{_cpu_name()}, {torch.get_num_threads()} threads"
    return f"{where}, torch {torch.__version__}, Python {platform.python_version()}"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def matmul_rate(device: torch.device, dtype: torch.dtype, rows: int, n: int, m: int) -> float:
    """Operations per second of `[rows, n] @ [n, m]`, the best of several."""
    left = torch.randn(rows, n, device=device, dtype=dtype)
    right = torch.randn(m, n, device=device, dtype=dtype)
    best = 0.0
    with torch.inference_mode():
        torch.nn.functional.linear(left, right)
        for _ in range(8):
            sync(device)
            started = time.perf_counter()
            torch.nn.functional.linear(left, right)
            sync(device)
            best = max(best, 2.0 * rows * n * m / (time.perf_counter() - started))
    return best


def read_rate(device: torch.device) -> float:
    """Bytes per second of reading memory, the best of several; on 1 GiB, far beyond any cache."""
    held = torch.ones(2**28, device=device)
    best = 0.0
    for _ in range(5):
        sync(device)
        started = time.perf_counter()
        held.sum()
        sync(device)
        best = max(best, held.numel() * 4 / (time.perf_counter() - started))
    return best
