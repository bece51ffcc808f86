"""A plain NICE-GAN, as obvious as possible: no optimisations, no shared computations.

It is tested against numbers measured on the released program (test_parity.py); our networks and our step are
tested, and timed, against it.
"""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

warnings.filterwarnings("ignore", message=".*spectral_norm.*")


def sn(layer):
    return nn.utils.spectral_norm(layer)


class Norm(nn.Module):
    """Textbook mixture of instance and layer normalisation; rho starts as given."""

    def __init__(self, channels, rho, own):
        super().__init__()
        self.rho = nn.Parameter(torch.tensor(rho).repeat(1, channels, 1))
        if own:
            self.gamma = nn.Parameter(torch.ones(1, channels, 1, 1))
            self.beta = nn.Parameter(torch.zeros(1, channels, 1, 1))

    def forward(self, x, gamma=None, beta=None):
        in_mean, in_var = x.mean((2, 3), keepdim=True), x.var((2, 3), keepdim=True)
        ln_mean, ln_var = x.mean((1, 2, 3), keepdim=True), x.var((1, 2, 3), keepdim=True)
        instance = (x - in_mean) / torch.sqrt(in_var + 1e-5)
        layer = (x - ln_mean) / torch.sqrt(ln_var + 1e-5)
        weight = torch.softmax(self.rho, dim=2)
        mixed = weight[:, :, 0, None, None] * instance + weight[:, :, 1, None, None] * layer
        if gamma is None:
            return mixed * self.gamma + self.beta
        return mixed * gamma[:, :, None, None] + beta[:, :, None, None]


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.conv1 = nn.Conv2d(c, c, 3, bias=False)
        self.norm1 = Norm(c, [3.2, 1.0], own=False)
        self.conv2 = nn.Conv2d(c, c, 3, bias=False)
        self.norm2 = Norm(c, [3.2, 1.0], own=False)
        self.pad = nn.ReflectionPad2d(1)

    def forward(self, x, gamma, beta):
        y = F.relu(self.norm1(self.conv1(self.pad(x)), gamma, beta))
        return x + self.norm2(self.conv2(self.pad(y)), gamma, beta)


class Generator(nn.Module):
    def __init__(self, ch, n_res, img_size, light):
        super().__init__()
        m = 4 * ch
        self.light, self.n_res = light, n_res
        self.gamma = nn.Linear(m, m, bias=False)
        self.beta = nn.Linear(m, m, bias=False)
        for k in range(1, n_res + 1):
            setattr(self, f"UpBlock1_{k}", Block(m))
        first = m if light else m * (img_size // 4) ** 2
        self.FC = nn.Sequential(nn.Linear(first, m, bias=False), nn.ReLU(), nn.Linear(m, m, bias=False), nn.ReLU())
        self.UpBlock0 = nn.Sequential(
            nn.ReflectionPad2d(1), nn.Conv2d(2 * ch, m, 3), Norm(m, [1.0, 3.2], own=True), nn.ReLU()
        )
        up = []
        for c in (m, m // 2):
            up += [nn.ReflectionPad2d(1), nn.Conv2d(c, c // 2, 3, bias=False)]
            up += [Norm(c // 2, [1.0, 3.2], own=True), nn.ReLU()]
            up += [nn.Conv2d(c // 2, 2 * c, 1), nn.PixelShuffle(2)]
            up += [Norm(c // 2, [1.0, 3.2], own=True), nn.ReLU()]
        up += [nn.ReflectionPad2d(3), nn.Conv2d(ch, 3, 7, bias=False), nn.Tanh()]
        self.UpBlock2 = nn.Sequential(*up)

    def forward(self, z):
        x = self.UpBlock0(z)
        s = self.FC(x.mean((2, 3)) if self.light else x.flatten(1))
        gamma, beta = self.gamma(s), self.beta(s)
        for k in range(1, self.n_res + 1):
            x = getattr(self, f"UpBlock1_{k}")(x, gamma, beta)
        return self.UpBlock2(x)


def down(a, b, stride=2):
    return [nn.ReflectionPad2d(1), sn(nn.Conv2d(a, b, 4, stride)), nn.LeakyReLU(0.2)]


class Discriminator(nn.Module):
    """forward: (local logits, global logits, CAM logit, z)."""

    def __init__(self, ch, n_dis):
        super().__init__()
        c = 2 * ch
        self.lamda = nn.Parameter(torch.zeros(1))
        self.fc = sn(nn.Linear(2 * c, 1, bias=False))
        self.conv1x1 = nn.Conv2d(2 * c, c, 1)
        self.pad = nn.ReflectionPad2d(1)
        width = ch * 2 ** (n_dis - 5)  # out of Dis0_0
        self.conv0 = sn(nn.Conv2d(2 * width, 1, 4, bias=False))
        self.conv1 = sn(nn.Conv2d(8 * width, 1, 4, bias=False))
        self.model = nn.Sequential(*down(3, ch), *down(ch, c))
        self.Dis0_0 = nn.Sequential(*[m for i in range(2, n_dis - 4) for m in down(ch * 2 ** (i - 1), ch * 2**i)])
        self.Dis0_1 = nn.Sequential(*down(width, 2 * width, stride=1))
        self.Dis1_0 = nn.Sequential(*down(width, 2 * width), *down(2 * width, 4 * width))
        self.Dis1_1 = nn.Sequential(*down(4 * width, 8 * width, stride=1))

    def forward(self, x):
        x = self.model(x)
        cam_logit = self.fc(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        attended = torch.cat([x, x], dim=1) * self.fc.weight_orig[:, :, None, None]
        z = F.leaky_relu(self.lamda * self.conv1x1(attended) + x, 0.2)
        x = self.Dis0_0(z)
        out0 = self.conv0(self.pad(self.Dis0_1(x)))
        out1 = self.conv1(self.pad(self.Dis1_1(self.Dis1_0(x))))
        return out0, out1, cam_logit, z


class Reference:
    """Both discriminators, both generators, and the training step in the authors' order."""

    def __init__(self, img_size=256, ch=64, n_res=6, n_dis=7, light=True, lr=1e-4, weight_decay=1e-4,
                 adv_weight=1, cycle_weight=10, recon_weight=10, iteration=100000, device="cpu"):  # fmt: skip
        self.gen2A = Generator(ch, n_res, img_size, light).to(device)
        self.gen2B = Generator(ch, n_res, img_size, light).to(device)
        self.disA = Discriminator(ch, n_dis).to(device)
        self.disB = Discriminator(ch, n_dis).to(device)
        D = [*self.disA.parameters(), *self.disB.parameters()]
        G = [*self.gen2B.parameters(), *self.gen2A.parameters()]
        settings = dict(lr=lr, betas=(0.5, 0.999), weight_decay=weight_decay)
        self.D_optim, self.G_optim = torch.optim.Adam(D, **settings), torch.optim.Adam(G, **settings)
        self.lr, self.iteration, self.step = lr, iteration, 0
        self.adv_weight, self.cycle_weight, self.recon_weight = adv_weight, cycle_weight, recon_weight

    def networks(self):
        return {"gen2B": self.gen2B, "gen2A": self.gen2A, "disA": self.disA, "disB": self.disB}

    def train_step(self, real_A, real_B):
        self.step += 1
        half = self.iteration // 2
        for group in self.D_optim.param_groups + self.G_optim.param_groups:
            group["lr"] = self.lr * (1 - max(0, self.step - half) / half)

        def should_be(logits, target):
            return F.mse_loss(logits, torch.full_like(logits, target))

        # D
        self.D_optim.zero_grad()
        *real_A_logits, real_A_z = self.disA(real_A)
        *real_B_logits, real_B_z = self.disB(real_B)
        fake_A2B, fake_B2A = self.gen2B(real_A_z).detach(), self.gen2A(real_B_z).detach()
        *fake_A_logits, _ = self.disA(fake_B2A)
        *fake_B_logits, _ = self.disB(fake_A2B)
        loss_A = sum(should_be(r, 1.0) + should_be(f, 0.0) for r, f in zip(real_A_logits, fake_A_logits, strict=True))
        loss_B = sum(should_be(r, 1.0) + should_be(f, 0.0) for r, f in zip(real_B_logits, fake_B_logits, strict=True))
        d_loss = self.adv_weight * (loss_A + loss_B)
        d_loss.backward()
        self.D_optim.step()

        # G
        self.G_optim.zero_grad()
        *_, real_A_z = self.disA(real_A)
        *_, real_B_z = self.disB(real_B)
        fake_A2B, fake_B2A = self.gen2B(real_A_z), self.gen2A(real_B_z)
        *fake_A_logits, fake_A_z = self.disA(fake_B2A)
        *fake_B_logits, fake_B_z = self.disB(fake_A2B)
        cycle_A, cycle_B = self.gen2A(fake_B_z), self.gen2B(fake_A_z)
        recon_A, recon_B = self.gen2A(real_A_z), self.gen2B(real_B_z)
        adv = sum(should_be(f, 1.0) for f in fake_A_logits + fake_B_logits)
        cycle = F.l1_loss(cycle_A, real_A) + F.l1_loss(cycle_B, real_B)
        recon = F.l1_loss(recon_A, real_A) + F.l1_loss(recon_B, real_B)
        g_loss = self.adv_weight * adv + self.cycle_weight * cycle + self.recon_weight * recon
        g_loss.backward()
        self.G_optim.step()
        return {"d_loss": d_loss.detach(), "g_loss": g_loss.detach()}
