"""Numerical checks: what this device computes against float32 or float64 on the CPU.

Each check has its error, a relative L2 distance unless it says otherwise, and the bound that it must stay below.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from stages.decoder.layers import GroupNorm, attention, group_norm
from stages.decoder.loop import Training
from stages.decoder.network import DecoderNetwork, Parts
from stages.decoder.objective import Edm
from stages.decoder.rcdm.spec import AdmSettings
from stages.decoder.rcdm.train import AdmNetwork
from stages.decoder.recipe import Recipe
from stages.decoder.spec import NetworkSettings, TrainingSettings
from stages.diffusion import noise, samplers
from stages.training.precision import Precision, arithmetic, unrounded
from tests.artifacts import InlineContext
from tests.benchmarks.gpu.figures import Bench, relative
from tests.stages.decoder.small import paired

OURS = NetworkSettings(channels=(64, 128), blocks=(1, 1), width=64, sketch=(64, 64))
PUBLISHED = AdmSettings(image_size=16, model_channels=64, channel_mult=(1, 2), attention_resolutions=(8,))
SIZE, WIDTH, BATCH = 16, 24, 4
BOUNDS: dict[Precision, float] = {"float32": 1e-4, "bfloat16": 3e-2}
"""Of both networks: float32 that is summed in another order, and factors of 8 bits through some twenty layers."""

Passed = tuple[Tensor, Tensor]
"""A network's output, and its gradients by all weights as one vector."""


def networks() -> dict[str, tuple[Parts, Callable[[Parts, str], Tensor]]]:
    """Both U-Nets with random weights on the CPU, and how to run each on a device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(BATCH, 3, SIZE, SIZE, generator=generator)
    sigma, h = torch.rand(BATCH, generator=generator) + 0.1, torch.randn(BATCH, WIDTH, generator=generator)
    step, tap = torch.tensor([0, 3, 500, 999]), torch.zeros(BATCH, dtype=torch.int64)
    published, ours = AdmNetwork(PUBLISHED, WIDTH), DecoderNetwork(OURS, (WIDTH,), SIZE)
    for network in (ours, published):
        for parameter in network.parameters():
            nn.init.normal_(parameter, std=0.05, generator=generator)

    def denoised(network: Parts, device: str) -> Tensor:
        out: Tensor = network(images.to(device), sigma.to(device), h.to(device), tap.to(device))
        return out

    def estimated(network: Parts, device: str) -> Tensor:
        out: Tensor = network.painter(images.to(device), step.to(device), h.to(device))
        return out

    return {"the published U-Net": (published, estimated), "our U-Net": (ours, denoised)}


def passed(network: Parts, work: Callable[[Parts, str], Tensor], device: str, precision: Precision) -> Passed:
    """Forward and backward pass as a training does them."""
    network = network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    network.zero_grad()
    with unrounded(precision):
        with arithmetic(precision, device):
            out = work(network, device)
        out.float().square().mean().backward()  # type: ignore[no-untyped-call]
    gradients = [p.grad.flatten().cpu() for p in network.parameters() if p.grad is not None]
    return out.detach().float().cpu(), torch.cat(gradients)


def check_networks(bench: Bench) -> None:
    """Both networks, forwards and backwards, against float32 on the CPU; as compiled in trainings on GPUs too."""
    for name, (network, work) in networks().items():
        expected = passed(copy.deepcopy(network), work, "cpu", "float32")
        for precision, bound in BOUNDS.items():
            # To compile takes long, so in one precision.
            for compiled in (False, True) if bench.on_gpu and precision == "bfloat16" else (False,):
                tried = copy.deepcopy(network)
                if compiled:
                    tried.compile_kernels()
                found = passed(tried, work, bench.device, precision)
                how = f"{name}, {precision}{', compiled' if compiled else ''}"
                for part, a, b in zip(("output", "gradients"), found, expected, strict=True):
                    write(bench, f"{how}: {part}", relative(a, b), bound)


def check_layers(bench: Bench) -> None:
    """Group norm with scale, shift and SiLU, and attention, against float64."""
    generator = torch.Generator().manual_seed(1)
    norm = GroupNorm(32, 128)
    # Far from 0, where sums of squares would be all rounding.
    x = 4.0 + torch.randn(4, 128, 16, 16, generator=generator)
    scale, shift = torch.randn(4, 128, generator=generator), torch.randn(4, 128, generator=generator)
    q, k, v = (torch.randn(2, 4, 64, 32, generator=generator) for _ in range(3))
    normed = group_norm(copy.deepcopy(norm).double(), x.double(), scale.double(), shift.double())
    attended = attention(q.double(), k.double(), v.double())
    norm = norm.to(bench.device)
    for dtype, bound in ((torch.float32, 1e-5), (torch.bfloat16, 2e-2)):
        moved = [part.to(bench.device, dtype) for part in (x, scale, shift)]
        with torch.autocast(torch.device(bench.device).type, dtype, enabled=dtype == torch.bfloat16):
            for norm.fused in (False, True) if bench.on_gpu else (False,):
                found = group_norm(norm, moved[0], moved[1], moved[2])
                how = f"group norm, {dtype}{', fused' if norm.fused else ''}"
                write(bench, how, relative(found, normed), bound)
        found = attention(*(part.to(bench.device, dtype) for part in (q, k, v)))
        write(bench, f"attention, {dtype}", relative(found, attended), bound)


def check_samplers(bench: Bench) -> None:
    """Every sampler with a denoiser in closed form, float32 on the device against float64 on the CPU."""
    levels, h = samplers.karras_sigmas(20, 0.02, 20.0, 3.0), torch.linspace(-1, 1, 8)

    def drawn(device: str) -> noise.Noise:
        return noise.by_step([(0, row) for row in range(len(h))], (3, 8, 8), device)

    def exact(x: Tensor, sigma: Tensor, h: Tensor) -> Tensor:
        share = (0.25 / (0.25 + sigma**2)).view(-1, 1, 1, 1)
        return h.view(-1, 1, 1, 1) * (1 - share) + x * share

    for name, sampler in samplers.SAMPLERS.items():
        found = sampler(exact, drawn(bench.device), levels, h.to(bench.device))
        expected = sampler(exact, lambda step: drawn("cpu")(step).double(), levels.double(), h.double())
        write(bench, f"sampler {name}", relative(found, expected), 1e-4)


def check_training(bench: Bench) -> None:
    """The losses of a short training, sketch and diffusion model, against the same on the CPU."""
    settings = TrainingSettings(batch=8, sketch_images=96, sketch_batch=32, precision="float32", compile=False)
    for optimiser, bound in (("adamw", 1e-3), ("muon", 2e-2)):
        chosen = settings.model_copy(update={"optimiser": optimiser})
        found, expected = (losses(chosen, device) for device in (bench.device, "cpu"))
        # Muon rounds the factors of its updates to bfloat16.
        write(bench, f"losses of 24 steps, {optimiser}, float32", relative(found, expected), bound)


def losses(settings: TrainingSettings, device: str) -> Tensor:
    """Losses of 24 steps, float64 on the CPU."""
    torch.manual_seed(0)
    data, heldout = paired(100), paired(20, seed=1)
    network = DecoderNetwork(
        NetworkSettings(channels=(8, 12), blocks=(1, 1), width=16, sketch=(16, 24)), data.widths, 8
    )
    objective = Edm(settings.log_sigma_mean, settings.log_sigma_std)
    context = InlineContext(device=device)
    with Training(network, objective, Recipe(settings, 1000, 0), data, heldout, context) as training:
        return torch.stack([training.advance() for _ in range(24)]).double().cpu()


def write(bench: Bench, what: str, error: float, bound: float) -> None:
    """Writes a check with its verdict. NaN is below no bound."""
    bench.write(what, error=error, bound=bound, passed=bool(error <= bound))


def run(bench: Bench) -> None:
    """Writes all checks, the quick ones first."""
    check_layers(bench)
    check_samplers(bench)
    check_training(bench)
    check_networks(bench)
