"""Speed only: a faster function of the same name for each `accelerated` definition in layers/.

Each equals its definition but for rounding, says why, and is tested against it (tests/test_fast.py).  Without this
folder, or with --plain true, the program still runs, slower.
"""

from layers.fast.convolution import (
    blur,
    conv2d,
    conv2d_without_gradient,
    conv_transpose2d,
    product,
    smooth_double,
    upsampled_conv2d,
)
from layers.fast.memory import early, keep_freed_memory
from layers.fast.normalisation import adaptive_instance_norm, instance_layer_norm, instance_norm, std_layer_norm
from layers.fast.spectral_norm import iterate, power_iteration, spectral_conv2d, spectral_linear
