"""A fake GPU: tensors on cuda:0 with shapes, strides and types but no contents.

    with fake_cuda():
        trainer = methods.create(main.parse_args(["--device", "cuda", ...]))
        with watched() as seen:
            trainer.train_step(real_A, real_B)
    seen.problems()       what a GPU would have refused or waited for
    seen.started          the operations that it would have been given

torch's FakeTensorMode does this for traced graphs; complete programs need more:

- Python sees cuda:0, C++ sees "meta", because the autograd engine would look for the GPU's queue.
- C++'s autocast therefore does nothing; `Autocast` does it in Python, by CUDA's lists.
- Operations that C++ therefore requests on "meta" (x.new_tensor, autograd's defaults) run on cuda:0.
- When a module moves, its parameters get the new device in place: fake ones cannot be swapped.
- `torch.cuda` reports one GPU, with random states.
- Values read on the CPU are zeros (numpy()), or 0, 1.0 or True (item()).
- Tensors that layers/fast caches between calls are dropped before and after.

Operations count where C++ hands them to a device; views do not count.  A copy from the CPU to the GPU without
`non_blocking` makes the host wait, as does reading contents back.
"""

import importlib
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses import fake_tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from layers.fast import convolution as fast_convolution
from layers.fast import memory as fast_memory
from layers.fast import normalisation as fast_normalisation

GPU = torch.device("cuda:0")
DEVICE_OF = torch.ops.prim.device.default
READ = torch.ops.aten._local_scalar_dense.default
CPU_ONLY = {
    fast_memory: ("_Early",),
    fast_convolution: (
        "one_channel_conv", "row_conv", "_MinimalConv", "_minimal_conv2d", "_StridedConv",
        "_StridedConvTranspose", "_OnFrame",
    ),  # fmt: skip
}


# ---------------------------------------------------------------------------------------- the machine


def _told(x: FakeTensor) -> torch.device:
    """The device of a fake tensor as C++ sees it."""
    gpu = x.fake_device.type == "cuda"
    return torch.device("meta") if gpu or x.fake_mode.in_kernel_invocation else x.fake_device


class FakeCudaMode(FakeTensorMode):
    """FakeTensorMode with other answers about devices."""

    avoid_device_init = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is DEVICE_OF:
            return _told(args[0])
        if func is READ:
            return {torch.bool: True}.get(args[0].dtype, 1.0 if args[0].is_floating_point() else 0)
        if func is torch.ops.aten._fused_adam_.tensor_lr:  # which PyTorch cannot fake
            return None  # it works in place
        kwargs = dict(kwargs or {})
        if (asked := kwargs.get("device")) is not None and torch.device(asked).type == "meta":
            kwargs["device"] = GPU
        if func is torch.ops.aten._to_copy.default and not isinstance(args[0], FakeTensor):
            args = (self.from_tensor(args[0]),)  # PyTorch 2.6 would really copy a tensor with contents
        return super().__torch_dispatch__(func, types, args, kwargs)


_dispatch = FakeTensor.__dict__["__torch_dispatch__"].__func__


def _of_tensor(cls, func, types, args=(), kwargs=None):
    return _told(args[0]) if func is DEVICE_OF else _dispatch(cls, func, types, args, kwargs or {})


def _numpy(self, *, force=False):
    if self.device.type != "cpu":
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first")
    with _disable_current_modes():
        return torch.zeros(tuple(self.shape), dtype=self.dtype).numpy()


def _to(self, *args, **kwargs):
    """Tensor.to without a copy where C++ mistakes the tensor's own device for another."""
    names = ("device", "dtype", "non_blocking", "memory_format")
    copy = kwargs.pop("copy", False)
    wanted = dict(zip(names, torch._C._nn._parse_to(*args, **kwargs), strict=True))
    if wanted["device"] is not None and torch.device(wanted["device"]).type == self.device.type:
        wanted["device"] = None
    if wanted["device"] is None:
        wanted.pop("device")
    wanted = {name: value for name, value in wanted.items() if value is not None}
    if not wanted.keys() - {"non_blocking"} and not copy:
        return self
    return torch.Tensor.to(self, copy=copy, **({"dtype": self.dtype} | wanted))


def _apply(self, fn, recurse=True):
    """Module._apply that keeps the parameter objects, as it does where their `data` can be set."""
    for child in self.children() if recurse else ():
        child._apply(fn)
    for kind in (self._parameters, self._buffers):
        for name, x in kind.items():
            if x is None:
                continue
            with torch.no_grad():
                moved = fn(x)
            if isinstance(x, FakeTensor) and moved.dtype == x.dtype and moved.stride() == x.stride():
                x.fake_device = moved.device
            else:
                kind[name] = torch.nn.Parameter(moved, x.requires_grad) if kind is self._parameters else moved
    return self


def _of_torch_cuda(stack: ExitStack):
    state = torch.zeros(16, dtype=torch.uint8)
    kept = {"state": state}
    answers = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "synchronize": lambda *_: None,
        "get_rng_state": lambda *_: kept["state"],
        "set_rng_state": lambda x, *_: kept.update(state=x),
        "get_rng_state_all": lambda: [kept["state"]],
        "set_rng_state_all": lambda states: kept.update(state=states[0]),
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=80 * 2**30, major=9, minor=0),
        "get_device_capability": lambda *_: (9, 0),
        "mem_get_info": lambda *_: (70 * 2**30, 80 * 2**30),
        "is_current_stream_capturing": lambda: False,
        "_lazy_init": lambda: None,
    }
    for name, answer in answers.items():
        stack.enter_context(mock.patch.object(torch.cuda, name, answer))
    return kept


def _forget():
    """Drop cached tensors: real ones before, fake ones after."""
    for module in (fast_memory, fast_convolution, fast_normalisation):
        for value in vars(module).values():
            if hasattr(value, "cache_clear"):
                value.cache_clear()


@contextmanager
def fake_cuda():
    """Inside, there is a GPU whose tensors have no contents; new CPU tensors have none either."""
    mode = FakeCudaMode(allow_non_fake_inputs=True)  # before torch.cuda is patched
    patches = {
        "__torch_dispatch__": classmethod(_of_tensor),
        "numpy": _numpy,
        "to": _to,
        "is_cuda": property(lambda x: x.device.type == "cuda"),
        "is_cpu": property(lambda x: x.device.type == "cpu"),
        "is_meta": property(lambda x: x.device.type == "meta"),
        "cuda": lambda x, *_, **__: _to(x, GPU),
        "data": property(torch.Tensor.detach),
        "pin_memory": lambda x, *_: x,
    }
    with ExitStack() as stack:
        for name, value in patches.items():
            stack.enter_context(mock.patch.object(FakeTensor, name, value, create=True))
        stack.enter_context(mock.patch.object(fake_tensor, "init_gpu_context", lambda *_: None))
        stack.enter_context(mock.patch.object(torch.nn.Module, "_apply", _apply))
        kinds = [torch.Tensor, torch.nn.Parameter, FakeTensor]  # accepted by foreach operations
        for module in map(importlib.import_module, ("torch.utils._foreach_utils", "torch.optim.optimizer")):
            stack.enter_context(mock.patch.object(module, "_foreach_supported_types", kinds))
        for name in ("get_rng_state", "set_rng_state"):
            for module in (torch, torch.random):
                stack.enter_context(mock.patch.object(module, name, _disable_current_modes()(getattr(module, name))))
        devices = "torch.utils._foreach_utils._get_foreach_kernels_supported_devices"
        stack.enter_context(mock.patch(devices, lambda: ["cuda", "meta"]))
        _of_torch_cuda(stack)
        _forget()
        stack.callback(_forget)
        stack.enter_context(mode)
        stack.enter_context(Autocast())
        yield mode


# ------------------------------------------------------------------------------------ mixed precision

LOWER = (
    "conv1d", "conv2d", "conv_transpose1d", "conv_transpose2d", "linear", "matmul", "__matmul__", "__rmatmul__",
    "mm", "mv", "bmm", "addmm", "addmv", "baddbmm", "einsum", "prelu", "scaled_dot_product_attention",
)  # fmt: skip
WHOLE = (
    "exp", "log", "log2", "log10", "log1p", "pow", "__pow__", "reciprocal", "rsqrt", "softplus", "layer_norm",
    "group_norm", "norm", "cosine_similarity", "nll_loss", "cross_entropy", "mse_loss", "l1_loss", "smooth_l1_loss",
    "kl_div", "dist", "cdist", "logsumexp", "prod", "softmax", "log_softmax", "cumsum", "sum",
    "binary_cross_entropy_with_logits",
)  # fmt: skip
WIDEST = (
    "addcmul", "addcdiv", "cat", "stack", "dot", "bilinear", "grid_sample", "index_put", "scatter_add", "tensordot",
)  # fmt: skip


def _numbered(x):
    return GPU if isinstance(x, (str, torch.device)) and str(x) == "cuda" else x


class Autocast(TorchFunctionMode):
    """Autocast of a GPU without its weight cache: converts arguments to lower or higher precision by operation name."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(func, "__name__", "")
        if name == "to":  # PyTorch 2.6 asks the driver which GPU "cuda" is
            args, kwargs = tree_map(_numbered, (args, kwargs))
        if torch.is_autocast_enabled("cuda") and (kind := self.kind(name, args, kwargs)):
            args, kwargs = tree_map(lambda x: x.to(kind) if _counts(x) else x, (args, kwargs))
        return func(*args, **kwargs)

    @staticmethod
    def kind(name, args, kwargs) -> torch.dtype | None:
        if name in LOWER:
            return torch.get_autocast_dtype("cuda")
        if name in WHOLE and "dtype" not in kwargs:
            return torch.float32
        if name in WIDEST:
            found = {x.dtype for x in tree_leaves((args, kwargs)) if _counts(x)}
            return torch.float32 if torch.float32 in found else next(iter(found), None)
        return None


def _counts(x) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "cuda" and x.is_floating_point()


# ---------------------------------------------------------------------------------------- the watch


class Watch(TorchDispatchMode):
    """Records the operations inside, and which of them wait for the GPU or run on the CPU."""

    def __init__(self):
        super().__init__()
        self.started, self.waits, self.on_cpu = [], [], []

    def problems(self) -> list[str]:
        return [f"waits: {x}" for x in self.waits] + [f"on the CPU: {x}" for x in self.on_cpu]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func.namespace == "prim":
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if func is READ and given[0].device.type == "cuda":
            self.waits.append(str(func))
        out = func(*args, **kwargs)
        made = [x for x in tree_leaves(out) if isinstance(x, torch.Tensor)]
        self.note(func, args, kwargs, given, made)
        return out

    def note(self, func, args, kwargs, given, made):
        numbers = [x for x in given if x.dim() == 0 and x.device.type == "cpu"]  # scalars, passed by value
        devices = {x.device.type for x in given if all(x is not y for y in numbers)}, {x.device.type for x in made}
        if func.namespace == "mkldnn" or "mkldnn" in func.name() or "im2col" in func.name():
            self.on_cpu.append(str(func))
        if is_view(func, given, made):
            return
        if "cuda" not in devices[0] | devices[1]:
            if any(x.numel() > 1 for x in made):
                self.on_cpu.append(f"{func} of {[tuple(x.shape) for x in made]}")
            return
        if func.overloadpacket in COPIES:
            to, source = (args[0], args[1]) if "copy_" in func.name().split("::")[1][:5] else (made[0], args[0])
            crosses = to.device.type != source.device.type
            blocking = not (kwargs.get("non_blocking") or (len(args) > 2 and args[2] is True))
            if crosses and (blocking or to.device.type == "cpu"):
                self.waits.append(f"{func} {source.device} -> {to.device} of {tuple(source.shape)}")
        elif "cpu" in devices[0]:  # also for indices, which would be copied
            self.waits.append(f"{func} mixes devices")
        self.started.append((func, args, kwargs, made))


COPIES = {torch.ops.aten._to_copy, torch.ops.aten.copy_}


def is_view(func, given, made) -> bool:
    """Whether nothing is computed: the result shares an argument's memory or is uninitialised."""
    name = func.name().split("::")[1].split(".")[0]
    if name in ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "detach", "lift_fresh",
                "_unsafe_view"):  # fmt: skip
        return True
    alias = [r.alias_info for r in func._schema.returns]
    return bool(alias) and all(a is not None and not a.is_write for a in alias)


@contextmanager
def watched():
    """A Watch over the operations inside, where the CPU paths of layers/fast are forbidden."""

    def barred(name):
        def way(*_, **__):
            raise AssertionError(f"{name} is for CPUs")

        return way

    with ExitStack() as stack:
        for module, name in ((module, name) for module, names in CPU_ONLY.items() for name in names):
            target = getattr(module, name)
            if isinstance(target, type):
                stack.enter_context(mock.patch.object(target, "apply", barred(name)))
            else:
                stack.enter_context(mock.patch.object(module, name, barred(name)))
        yield stack.enter_context(Watch())
