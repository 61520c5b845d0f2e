"""Networks of a given width and depth. The same seed gives the same weights on every device."""

import torch
from torch import Tensor, nn

from distexp.experiments.settings import Settings

MLP_UNITS = 4  # hidden units at width_factor 1
CNN_CHANNELS = 4  # channels at width_factor 1
MIN_SIDE = 4  # a convolution halves the picture until a side would be smaller than this


def build(settings: Settings, shape: tuple[int, ...], classes: int, generator: torch.Generator) -> nn.Module:
    """Return the model on the CPU, float32, weights drawn from `generator` alone.

    Shapes: `shape` is that of one input, (F,) or (C, H, W); the model maps (B, *shape) -> (B, classes).

    Raises:
        ValueError: A cnn is asked for where the inputs are not images.
    """
    with torch.device("meta"):  # no weights yet, so torch's global random state is not touched
        model = _mlp(settings, shape, classes) if settings.model == "mlp" else _cnn(settings, shape, classes)
    model.to_empty(device="cpu")
    for weight in model.parameters():
        _initialise(weight, generator)
    return model


def _initialise(weight: Tensor, generator: torch.Generator) -> None:
    """Draw weights from He's uniform distribution; a bias is zero.

    Source: He et al. 2015, "Delving Deep into Rectifiers", section 2.2, https://arxiv.org/abs/1502.01852
    """
    if weight.ndim > 1:
        nn.init.kaiming_uniform_(weight, nonlinearity="relu", generator=generator)
    else:
        nn.init.zeros_(weight)


def _mlp(settings: Settings, shape: tuple[int, ...], classes: int) -> nn.Module:
    units = _scaled(MLP_UNITS, settings.width_factor)
    features = 1
    for size in shape:
        features *= size
    layers: list[nn.Module] = [nn.Flatten()]
    for _ in range(settings.depth):
        layers += [nn.Linear(features, units), nn.ReLU()]
        features = units
    return nn.Sequential(*layers, nn.Linear(features, classes))


def _cnn(settings: Settings, shape: tuple[int, ...], classes: int) -> nn.Module:
    """Return convolutions of stride 2 while the picture allows it, then of stride 1.

    Differs: strides instead of max pooling, whose gradient is not deterministic on a GPU.
    """
    if len(shape) != 3:
        raise ValueError(
            f"model: cnn needs images, and the inputs have the shape {shape}; use mlp or other data"
        )
    before, height, width = shape
    channels = _scaled(CNN_CHANNELS, settings.width_factor)
    layers: list[nn.Module] = []
    for _ in range(settings.depth):
        stride = 2 if min(height, width) >= 2 * MIN_SIDE else 1
        layers += [nn.Conv2d(before, channels, 3, stride=stride, padding=1), nn.ReLU()]
        before, height, width = channels, -(-height // stride), -(-width // stride)
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(before * height * width, classes))


def _scaled(base: int, factor: float) -> int:
    return max(1, round(base * factor))
