"""The device and its ceilings: matrix product, convolution, and copy."""

import platform
from collections.abc import Callable

import torch
from torch import nn

from tests.benchmarks.gpu.figures import Benchmark

DENSE_BF16_TFLOPS = {"H100": 989.4, "H200": 989.4, "A100": 312.0, "L40S": 362.0, "L4": 121.0}
"""Peak of dense bfloat16 products by the makers' data sheets, of the cards' SXM versions where there are several."""


def datasheet_tflops(device: str) -> float | None:
    """The card's peak by its data sheet; None where this file does not have it."""
    if torch.device(device).type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for card, peak in DENSE_BF16_TFLOPS.items() if card in name.split()), None)


def product(benchmark: Benchmark) -> tuple[Callable[[], object], float]:
    """A product of two random bfloat16 matrices, and its operations."""
    side = 8192 if benchmark.full else 256
    a, b = (torch.randn(side, side, device=benchmark.device, dtype=torch.bfloat16) for _ in range(2))
    return lambda: a @ b, 2.0 * side**3


def product_tflops(benchmark: Benchmark) -> float:
    """What this card reaches in `product`: the ceiling that other rates are given as shares of."""
    work, operations = product(benchmark)
    return operations / benchmark.seconds_of(work) / 1e12


def run(benchmark: Benchmark) -> None:
    """Writes the device, the versions, and the rates."""
    if benchmark.on_gpu:
        about = torch.cuda.get_device_properties(benchmark.device)
        name, memory = about.name, about.total_memory / 1e9
        cudnn, cuda = torch.backends.cudnn.version(), torch.version.cuda  # type: ignore[no-untyped-call]
    else:
        name, memory, cudnn, cuda = platform.processor() or platform.machine(), None, None, None
    benchmark.write("device", name=name, memory_gb=memory, torch=torch.__version__, cuda=cuda, cudnn=cudnn)
    benchmark.write(
        "bfloat16 matrix product", tflops=product_tflops(benchmark), datasheet_tflops=datasheet_tflops(benchmark.device)
    )
    batch, channels, side = (64, 256, 64) if benchmark.full else (2, 32, 8)
    convolution = nn.Conv2d(channels, channels, 3, padding=1).to(benchmark.device, torch.bfloat16)
    convolution.to(memory_format=torch.channels_last)
    x = torch.randn(batch, channels, side, side, device=benchmark.device, dtype=torch.bfloat16)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    operations = 3 * 2.0 * 9 * channels**2 * side**2 * batch

    def both_ways() -> None:
        convolution(x).sum().backward()

    benchmark.write(
        f"bfloat16 convolution 3 x 3 and its gradients, {channels} channels, {side} px, batch {batch}",
        tflops=operations / benchmark.seconds_of(both_ways) / 1e12,
    )
    source = torch.randn(2**30 if benchmark.full else 2**20, device=benchmark.device)
    target = torch.empty_like(source)
    seconds = benchmark.seconds_of(lambda: target.copy_(source))
    benchmark.write("copy, bytes read and written", gb_per_second=2 * 4 * source.numel() / seconds / 1e9)
