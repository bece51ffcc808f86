"""The demo data, a pocket horse2zebra drawn from a seed, and the three measures of its translation.

    python demo.py                          draw dataset/demo

    trainA  plain horses                    trainB  zebras             400 each, no scene in both
    testA   plain horses                    testB   zebras             100 each
    truthA  testA's scenes with a zebra     truthB  testB's scenes with a horse
    maskA   the animal of testA             maskB   the animal of testB

Pictures are 64 x 64 PNG. The A and the B picture of a scene differ in the coat alone, and the shade of one coat
follows from the other's, so every translation has a right answer to be compared with.
"""

import argparse
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from demo_scenes import scene
from utils import UserError, run

ROOT = Path("dataset/demo")
SCENES = {"trainA": range(0, 400), "trainB": range(400, 800), "testA": range(800, 900), "testB": range(900, 1000)}
FOLDERS = SCENES | {f"{kind}{d}": SCENES[f"test{d}"] for kind in ("truth", "mask") for d in "AB"}
TRAIN_SIZE = (26, 32)  # smaller: training crops enlarge
DIRECTIONS = (("A", "B"), ("B", "A"))  # source, target


# ---------------------------------------------------------------------------------------- the data set


def ensure(root: Path = ROOT) -> Path:
    """Draw the data set into the folder `root` unless it is there; return root.

    It is drawn beside root and then renamed: whenever the drawing is stopped, root is complete or absent.
    """
    root = Path(root)
    if _complete(root):
        return root
    if root.exists() and any(root.iterdir()):
        raise UserError(f"{root}: is not the whole demo data set; delete this folder and it will be drawn again")
    print(f"Drawing the demo data set in {root} ...", flush=True)
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        for old in root.parent.glob(f".{root.name}-*"):  # left by a drawing that was killed
            if time.time() - old.stat().st_mtime > 600:
                shutil.rmtree(old, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as beside:
            _draw(Path(beside) / root.name)
            try:
                (Path(beside) / root.name).rename(root)
            except OSError:
                if not _complete(root):  # else another process was first
                    raise
    except OSError as error:
        raise UserError(f"{root}: cannot be drawn there ({error.strerror}); make room or choose another") from None
    return root


def _complete(root: Path) -> bool:
    return all(len(list((root / name).glob("*.png"))) == len(numbers) for name, numbers in FOLDERS.items())


def _draw(root: Path):
    for name in FOLDERS:
        (root / name).mkdir(parents=True)
    for domain, other in DIRECTIONS:
        for number in SCENES[f"train{domain}"]:
            _save(scene(number, TRAIN_SIZE, domain)[domain], root / f"train{domain}", number)
        for number in SCENES[f"test{domain}"]:
            pictures = scene(number)
            for folder, key in (("test", domain), ("truth", other), ("mask", "mask")):
                _save(pictures[key], root / f"{folder}{domain}", number)


def _save(picture: np.ndarray, folder: Path, number: int):
    Image.fromarray(picture).save(folder / f"{number:04d}.png")


# ---------------------------------------------------------------------------------------- the measures

BARS = {  # measure: at least, at most, what it says
    "background": (0, 0.04, "change outside the animal"),
    "coat_colour": (0, 0.4, "error of the coat's colour, 1 = not translated"),
    "coat_texture": (0.6, 1.5, "strength of the coat's pattern, 1 = as it should be"),
}
BLUR = 4  # sigma in pixels, wider than a stripe: it parts a coat into colour and texture


def measure(fake_dir, source_dir, truth_dir, mask_dir) -> dict:
    """How well the pictures in fake_dir translate their namesakes in source_dir.

    Pixel values are in [0, 1]; means are over scenes, pixels and colour channels. Inside are the pixels
    that the animal covers at least by half, outside those it does not touch; the edge in between counts for
    neither. blur is Gaussian, of sigma BLUR, and confined to the inside (weights outside are 0), so that no
    background leaks in. It is wider than a stripe: what it leaves is the coat's colour, what it takes the texture.

    background    mean |fake - source| outside
    coat_colour   mean |blur(fake) - blur(truth)| / mean |blur(source) - blur(truth)| inside
    coat_texture  mean (fake - blur(fake))^2 / mean (truth - blur(truth))^2 inside

    Numerators and denominators are averaged over the scenes before they are divided.
    """
    names = sorted(path.name for path in Path(mask_dir).glob("*.png"))
    if not names:
        raise UserError(f"{mask_dir}: no masks; delete the demo data set and draw it again with: python demo.py")
    sums = np.zeros(5)
    for name in names:
        fake, source, truth = (_read(Path(d) / name, "RGB") for d in (fake_dir, source_dir, truth_dir))
        mask = _read(Path(mask_dir) / name, "L")
        if fake.shape != source.shape:
            raise UserError(f"{Path(fake_dir) / name}: has not the size of its source; translate with --img_size 64")
        inside, outside = mask >= 0.5, mask == 0

        def blur(picture, inside=inside):
            weight = inside.astype(float)
            total = gaussian_filter(picture * weight[..., None], (BLUR, BLUR, 0))
            return (total / np.maximum(gaussian_filter(weight, BLUR), 1e-9)[..., None])[inside]

        colour = {"fake": blur(fake), "source": blur(source), "truth": blur(truth)}
        sums += (
            np.abs(fake - source)[outside].mean(),
            np.abs(colour["fake"] - colour["truth"]).mean(),
            np.abs(colour["source"] - colour["truth"]).mean(),
            ((fake[inside] - colour["fake"]) ** 2).mean(),
            ((truth[inside] - colour["truth"]) ** 2).mean(),
        )
    background, wrong, untranslated, texture, right_texture = (sums / len(names)).tolist()
    return {
        "background": background,
        "coat_colour": wrong / untranslated,
        "coat_texture": texture / right_texture,
    }


def _read(path: Path, mode: str) -> np.ndarray:
    """The picture as floats in [0, 1]."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert(mode), float) / 255
    except OSError:
        raise UserError(f"{path}: missing or unreadable; translate the test folders again with: "
                        "python main.py @configs/demo.txt --phase test") from None


def passes(name: str, value: float) -> bool:
    low, high, _ = BARS[name]
    return low <= value <= high


def report(results_dir, root: Path = ROOT) -> dict:
    """Measure results_dir/fakeB and fakeA, print a line a measure, and return {"A2B": {...}, "B2A": {...}}."""
    results_dir, root = Path(results_dir), Path(root)
    found = {
        f"{s}2{t}": measure(results_dir / f"fake{t}", *(root / f"{kind}{s}" for kind in ("test", "truth", "mask")))
        for s, t in DIRECTIONS
    }
    print(f"{'demo':14}{'A2B':>6}{'B2A':>13}        bar")
    for name, (low, high, meaning) in BARS.items():
        values = "".join(f"{m[name]:6.3f} {'pass' if passes(name, m[name]) else 'MISS'}  " for m in found.values())
        bar = f"{low} to {high}" if low else f"at most {high}"
        print(f"{name:14}{values}  {bar:14}{meaning}")
    return found


def main(argv: list[str] | None = None):
    parser = argparse.ArgumentParser(description="Draw the demo data set.")
    parser.add_argument("--root", type=Path, default=ROOT, help="folder to draw it into (default: %(default)s)")
    ensure(parser.parse_args(argv).root)


if __name__ == "__main__":
    run(main, "demo.py")
