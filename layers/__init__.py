"""Layers that PyTorch lacks, as their papers define them; layers/fast computes the same in less time."""

from layers.accelerate import accelerated, definitions, use_definitions
from layers.convolution import (
    Conv2d,
    ConvTranspose2d,
    ReflectionPad2d,
    blur,
    conv2d,
    conv2d_without_gradient,
    conv_transpose2d,
    product,
    reflect,
    smooth_double,
    upsampled_conv2d,
)
from layers.memory import early, keep_freed_memory
from layers.normalisation import (
    ILN,
    AdaILN,
    InstanceNorm,
    adaptive_instance_norm,
    instance_layer_norm,
    instance_norm,
    std_layer_norm,
)
from layers.spectral_norm import (
    SNConv2d,
    SNLinear,
    Stack,
    fold_spectral_norms,
    iterate,
    power_iteration,
    power_iterations,
    spectral_conv2d,
    spectral_linear,
)
