"""One scene of the demo data, generated from its number: a landscape with a horse, or with the same animal as a zebra.

Shapes are signed distances (negative inside), in pixels for the landscape and in body lengths for the animal, so
that edges are smooth at 64 x 64. Pixels are computed by elementary float64 arithmetic only, so that every machine
generates the same pictures.
"""

import math
from itertools import pairwise

import numpy as np

SIZE = 64
SEED = 2020
SOFT = 1.4  # width of an edge, in pixels


class Dice:
    """The random numbers of one scene."""

    def __init__(self, number: int):
        self.rng = np.random.default_rng([SEED, number])

    def __call__(self, low=0.0, high=1.0) -> float:
        return low + (high - low) * float(self.rng.random())

    def pick(self, *options):
        return options[int(self(0, len(options)))]


def ramp(x, low, high):
    """0 up to `low`, 1 from `high` on, linear in between."""
    return np.clip((x - low) / (high - low), 0, 1)


def mix(a, b, share):
    """Blend `share` of colour b over colour a; colours (3,) or (3,H,W), share a number or (H,W)."""
    a, b = (np.asarray(c, float) if np.ndim(c) == 3 else np.asarray(c, float).reshape(3, 1, 1) for c in (a, b))
    return a + (b - a) * share


def disc(x, y, cx, cy, radius):
    return np.sqrt((x - cx) ** 2 + (y - cy) ** 2) - radius


def merge(a, b, width):
    """Union of two shapes, rounded over `width` where they join."""
    near = np.maximum(width - np.abs(a - b), 0) / width
    return np.minimum(a, b) - near * near * (width / 4)


def bend(points, steps=2):
    """A Catmull-Rom curve through the rows of `points`, as `steps` straight pieces between two rows."""
    p = np.array(points, float)
    p = np.concatenate([2 * p[:1] - p[1:2], p, 2 * p[-1:] - p[-2:-1]])
    a, b, c, d = (p[i : len(p) - 3 + i, None] for i in range(4))
    t = np.arange(steps)[:, None] / steps
    curve = b + t / 2 * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a)))
    return np.concatenate([curve.reshape(-1, p.shape[1]), p[-2:-1]])


def limb(x, y, points):
    """A tapering tube through rows of (x, y, radius): signed distance (H,W) and position along the tube (H,W).

    x (1,W) and y (H,1) are increasing coordinates; only the neighbourhood of the tube is computed.
    """
    reach = points[:, 2].max() + 0.15
    columns, rows = (
        slice(*np.searchsorted(axis.ravel(), (points[:, i].min() - reach, points[:, i].max() + reach)))
        for i, axis in enumerate((x, y))
    )
    x_, y_ = x[:, columns], y[rows]
    inner, inner_along, walked = np.full((y_.size, x_.size), 9.0), 0.0, 0.0
    for (ax, ay, ar), (bx, by, br) in pairwise(points.tolist()):
        dx, dy = bx - ax, by - ay
        length = math.hypot(dx, dy)
        t = (x_ - ax) * (dx / length**2) + (y_ - ay) * (dy / length**2)
        s = np.clip(t, 0, 1)
        d = np.sqrt((x_ - ax - s * dx) ** 2 + (y_ - ay - s * dy) ** 2) - (ar + s * (br - ar))
        inner_along = np.where(d < inner, walked + t * length, inner_along)
        inner = np.minimum(inner, d)
        walked += length
    distance, along = np.full((y.size, x.size), 9.0), np.zeros((y.size, x.size))
    distance[rows, columns], along[rows, columns] = inner, inner_along
    return distance, along


# ------------------------------------------------------------------------------------------- the scene


def landscape(dice, x, y):
    """Sky over grass, in 0..255 (3,H,W), and the row of the horizon."""
    horizon = dice(29, 34)
    picture = mix((98, 158, 221), (176, 211, 235), ramp(y, -2, horizon) + 0 * x)
    for _ in range(dice.pick(1, 1, 2)):  # clouds, flat below
        cx, cy, width, cloud = dice(0, 64), dice(5, horizon - 14), dice(6, 9), 99.0
        for i, size in enumerate((0.34, 0.5, 0.5, 0.34)):
            px, radius = cx + (i - 1.5) * width * 0.55 + dice(-0.7, 0.7), width * size * dice(0.85, 1.15)
            cloud = merge(cloud, disc(x, 1.25 * y, px, 1.25 * (cy - 0.45 * radius), radius), 1.5)
        white = mix((246, 248, 250), (212, 226, 240), ramp(y, cy - 4, cy + 1))
        picture = mix(picture, white, 0.9 * (1 - ramp(np.maximum(cloud, y - cy), -1, 0.7)))
    for tone in ((140, 182, 184), (112, 166, 134))[dice.pick(0, 1, 1) :]:  # hills
        ridge = 0.0
        for _ in range(3):
            centre, width, height = dice(-10, 74), dice(16, 30), dice(2, 5)
            ridge = np.maximum(ridge, height * np.clip(1 - ((x - centre) / width) ** 2, 0, 1) ** 2)
        picture = mix(picture, tone, np.clip(y - horizon + ridge, 0, 1))
    grass = mix((150, 192, 101), (90, 146, 67), ramp(y, horizon, 64) + 0 * x)
    picture = mix(picture, grass, np.clip(0.5 + y - horizon, 0, 1))
    for _ in range(dice.pick(0, 0, 1)):  # a tree on the horizon
        tx, radius = dice(3, 61), dice(2.6, 4.6)
        ty = horizon - 1.1 * radius
        stem = np.maximum(np.abs(x - tx) - 0.6, np.abs(y - (ty + horizon) / 2) - 0.55 * radius)
        crown = disc(x, y, tx, ty, radius)
        for side in (-0.6, 0.6):
            crown = merge(crown, disc(x, y, tx + side * radius, ty + 0.33 * radius, 0.68 * radius), 1)
        picture = mix(picture, (104, 84, 60), np.clip(0.5 - stem, 0, 1))
        leaves = mix((112, 168, 84), (66, 122, 72), ramp(y + 0.4 * (x - tx), ty - radius, ty + radius))
        picture = mix(picture, leaves, np.clip(0.5 - crown, 0, 1))
    blades = 99.0
    for _ in range(dice.pick(2, 3, 4)):  # tufts
        gx, gy = dice(1, 63), dice(horizon + 4, 63)
        height = 1.2 + 2.6 * (gy - horizon) / (64 - horizon)
        rise = np.clip((gy - y) / height, 0, 1)
        for lean in (-0.45, 0, 0.45):
            blade = np.abs(x - gx - lean * height * rise) - 0.55 * (1 - rise)
            blades = np.minimum(blades, np.maximum(blade, np.abs(gy - y - height / 2) - height / 2))
    picture = mix(picture, (70, 117, 53), 0.7 * np.clip(0.5 - 1.2 * blades, 0, 1))
    petal, petals = dice.pick((255, 252, 240), (252, 220, 88), (240, 150, 176)), 99.0
    for _ in range(dice.pick(0, 3, 4, 5)):  # flowers
        gx, gy = dice(1, 63), dice(horizon + 5, 63)
        petals = np.minimum(petals, disc(x, y, gx, gy, 0.5 + 0.5 * (gy - horizon) / (64 - horizon)))
    return mix(picture, petal, np.clip(0.5 - petals, 0, 1) + 0 * x), horizon


POSES = {  # angle of the neck above the horizontal, of the head below it; half a stride length
    "standing": (52, 40, 0.05),
    "alert": (66, 26, 0.06),
    "walking": (44, 38, 0.17),
    "grazing": (-45, 74, 0.09),
}


def skeleton(dice):
    """The ground's y, and the animal's parts as rows of (x, y, radius): facing right, y down, shoulder to hip 0.75."""
    pose = dice.pick("standing", "alert", "walking", "walking", "grazing")
    neck, head, stride = POSES[pose]
    grazing = pose == "grazing"
    neck, head = math.radians(neck + dice(-6, 6)), math.radians(head + dice(-7, 7))
    stride *= dice(0.8, 1.2) * dice.pick(-1, 1)
    fat, ground, big = dice(0.94, 1.1), dice(0.6, 0.7), dice(1.06, 1.2)
    # neck and head: from the withers to the poll, and on to the muzzle
    length = dice(0.4, 0.47) + 0.13 * grazing
    wx, wy = 0.32, 0.02 if grazing else -0.07
    px, py = wx + length * math.cos(neck), wy - length * math.sin(neck)
    if grazing:
        py = min(py, ground - 0.36)
    hx, hy = 0.36 * big * math.cos(head), 0.36 * big * math.sin(head)  # poll to muzzle
    ux, uy = math.sin(head), -math.cos(head)  # out of the forehead
    throat = [(wx, wy, 0.2 * fat), ((wx + px) / 2 + 0.015, (wy + py) / 2 - 0.02, 0.15), (px, py, 0.11)]
    size = math.hypot(px - wx, py - wy)
    cx, cy = (py - wy) / size, -(px - wx) / size  # from the neck's axis to its crest
    crest = [(x + cx * (r - 0.015), y + cy * (r - 0.015)) for x, y, r in throat]

    def face(along, up, radius):
        return px + along * hx + up * big * ux, py + 0.01 + along * hy + up * big * uy, radius * big

    def ear(at):
        return np.array([face(at, 0.07, 0.04), face(at - 0.04, 0.14, 0.036), face(at - 0.07, 0.215, 0.008)])

    def hind(x, swing):
        return bend([(x, 0.04, 0.17 * fat), (x + 0.05 + 0.2 * swing, 0.22, 0.125 * fat),
                     (x - 0.055 + 0.55 * swing, 0.56 * ground + 0.03, 0.084),
                     (x - 0.03 + 0.95 * swing, ground - 0.1, 0.066), (x + 0.015 + swing, ground - 0.02, 0.08)])

    def fore(x, swing):
        return bend([(x, 0.08, 0.14 * fat), (x + 0.2 * swing, 0.26, 0.1),
                     (x + 0.01 + 0.55 * swing + 0.1 * abs(swing), 0.5 * ground + 0.08, 0.08),
                     (x + 0.96 * swing, ground - 0.1, 0.064), (x + 0.03 + swing, ground - 0.02, 0.077)])

    sway = dice(0, 0.12)
    return ground, {
        "trunk": bend([(-0.32, -0.015, 0.225 * fat), (-0.11, 0.035, 0.215 * fat),
                       (0.11, 0.045, 0.225 * fat), (0.3, 0.02, 0.225 * fat)]),
        "neck": bend(throat),
        "head": bend([face(0, 0, 0.102), face(0.36, -0.012, 0.102), face(0.75, -0.012, 0.07), face(1, -0.014, 0.064)]),
        "mane": bend([(crest[0][0] - 0.06, crest[0][1], 0.02), (*crest[1], 0.058), (*crest[2], 0.06),
                      face(0.3, 0.095, 0.03)]),
        "tail": bend([(-0.5, -0.08, 0.04), (-0.58 - 0.3 * sway, 0.03, 0.05), (-0.6 - 0.7 * sway, 0.22, 0.065),
                      (-0.6 - sway, 0.42, 0.02)]),
        "ear": ear(0.08), "far ear": ear(-0.14), "eye": np.array([face(at, 0.032, 0.032) for at in (0.35, 0.37)]),
        "hind": hind(-0.34, 0.9 * stride), "fore": fore(0.28, -stride),
        "far hind": hind(-0.275, 0.03 - 0.9 * stride), "far fore": fore(0.345, 0.01 + stride),
    }


def scene(number: int, size=(32, 40), domains: str = "AB") -> dict:
    """Scene `number` as uint8 pictures: "A" and "B" (H,W,3), and "mask" (H,W), 255 on the animal, 0 outside.

    size: range of the body length, in pixels.
    """
    dice = Dice(number)
    x, y = np.arange(SIZE)[None] + 0.5, np.arange(SIZE)[:, None] + 0.5
    picture, horizon = landscape(dice, x, y)
    ground, bones = skeleton(dice)
    light, shade, mirror = dice(0.95, 1), dice(), dice.pick(1, -1)

    # place the animal in the frame; from here on x and y are in body lengths of `px` pixels
    left, right = bones["tail"][:, 0].min() - 0.06, bones["head"][:, 0].max() + 0.08
    top = min(-0.26, bones["ear"][-1, 1] - 0.02)
    px = min(dice(*size), 60 / (right - left), 57 / (ground - top))
    foot = max(2 + px * (ground - top), dice(max(horizon + 8, 50), 62))
    x, y = (x - dice(1.5, 62.5 - px * (right - left))) / px + left, (y - foot) / px + ground
    picture = picture * (1 - 0.24 * np.clip(1.25 - (x / 0.66) ** 2 - ((y - ground) / 0.085) ** 2, 0, 1))

    part = {name: limb(x, y, points) for name, points in bones.items()}
    for name in ("hind", "fore", "far hind", "far fore"):  # hooves stand flat
        part[name] = np.maximum(part[name][0], y - ground), part[name][1]
    shape = {name: distance for name, (distance, _) in part.items()}
    far = np.minimum(shape["far hind"], shape["far fore"])
    body = merge(merge(shape["trunk"], shape["neck"], 0.18), shape["head"], 0.06)
    body = merge(merge(body, shape["hind"], 0.06), shape["fore"], 0.06)

    # stripes run across each part and blend where parts meet
    def stripes(name, period, dark=0.47, warp=0.0):
        phase = (part[name][1] + warp) / period
        wave = np.abs(phase - np.floor(phase) - 0.5) * 2  # 0 in the middle of a stripe, 1 between two
        return np.clip(0.5 + (dark - wave) * period * px / (2 * SOFT), 0, 1)

    belly = y / 0.2
    stripe = {
        "trunk": stripes("trunk", 0.21, 0.46 - 0.3 * ramp(belly, 0.6, 1.2), 0.05 * belly**2),
        "neck": stripes("neck", 0.2),
        "head": stripes("head", 0.17, 0.43, 0.08),
        "tail": stripes("tail", 0.14),
    } | {name: stripes(name, 0.185) for name in ("hind", "fore", "far hind", "far fore")}
    joined = ("trunk", "neck", "head", "hind", "fore")
    nearest = np.minimum.reduce([shape[name] for name in joined])
    weight = {name: np.clip(1 - (shape[name] - nearest) / 0.05, 0, 1) for name in joined}
    stripe["body"] = sum(weight[name] * stripe[name] for name in joined) / sum(weight.values())
    stripe["far"] = np.where(shape["far hind"] < shape["far fore"], stripe["far hind"], stripe["far fore"])
    stripe["tail"] = np.maximum(stripe["tail"], ramp(part["tail"][1], 0.2, 0.26))

    # light from above shades the body; a crease separates the legs from the trunk
    slope = np.gradient(body, 1 / px, axis=0) * (1 - np.clip(-body / 0.13, 0, 1))
    shading = 1 + 0.24 * np.maximum(-slope, 0) - 0.45 * np.maximum(slope, 0)
    for name in ("hind", "fore"):
        crease = np.clip(1 - np.abs(shape[name] - 0.012) / 0.028, 0, 1) * (shape["trunk"] < -0.01)
        shading = shading * (1 - 0.36 * crease * ramp(y, 0.02, 0.2))
    sock, hoof = 0.75 * ramp(y, 0.62 * ground, ground - 0.06), ramp(y, ground - 0.1, ground - 0.08)
    nose = 0.8 * ramp(part["head"][1], 0.28, 0.35) * (shape["head"] < 0.02)

    def coat(hide, hair, name, dark, shading):
        colour = mix(hide, hair, dark)
        colour = mix(colour, hair, nose) if name == "body" else colour
        colour = colour * shading
        return mix(colour, (58, 50, 46), hoof) if name in ("body", "far") else colour

    everything = {"far": far, "tail": shape["tail"], "far ear": shape["far ear"], "body": body,
                  "mane": shape["mane"], "ear": shape["ear"], "eye": shape["eye"]}
    cover = {name: np.clip(0.5 - distance * px / SOFT, 0, 1) for name, distance in everything.items()}
    inner_ear = 0.8 * ramp(-shape["ear"], 0.012, 0.03)
    plain = {"far": sock, "body": sock, "tail": 1, "mane": 1, "far ear": 0, "ear": inner_ear, "eye": 1}
    zebra = {"far": stripe["far"], "body": stripe["body"], "tail": stripe["tail"], "mane": stripe["neck"],
             "far ear": 0, "ear": inner_ear, "eye": 1}
    shades = {"far": 0.7, "far ear": 0.75, "body": shading}
    colours = {
        "A": (mix((96, 54, 34), (198, 130, 76), shade), mix((38, 24, 20), (82, 48, 30), shade), plain),
        "B": (mix((198, 193, 186), (238, 234, 226), shade), mix((42, 38, 40), (68, 62, 60), shade), zebra),
    }
    pictures = {"mask": np.ceil(np.maximum.reduce(list(cover.values())) * 255)}
    for domain in domains:
        hide, hair, dark = colours[domain]
        painted = picture
        for name in everything:  # from back to front
            painted = mix(painted, coat(hide, hair, name, dark[name] + 0 * body, shades.get(name, 1)), cover[name])
        pictures[domain] = painted * light
    pictures = {key: (np.clip(value, 0, 255) + 0.5).astype(np.uint8)[..., ::mirror] for key, value in pictures.items()}
    return {key: value if key == "mask" else np.moveaxis(value, 0, -1) for key, value in pictures.items()}
