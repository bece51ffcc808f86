"""Released checkpoints translated by this program and scored by this scorer, beside the published numbers.

    python benchmarks/published.py                                  all that can be fetched
    python benchmarks/published.py --models cut_horse2zebra         some
    python benchmarks/published.py --list                           the names, addresses and numbers

Each checkpoint and its test pictures are fetched once, from their projects' own pages.  What a project hands out by
a web page alone is saved by hand: the table says what belongs where.  A row that is complete is not made again.
The table, OUT/published.md, holds all that tells these numbers from others: set, resize, format, hashes, date.
Needs requirements-dev.txt, and Inception's weights (fetched once).
"""

import hashlib
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from images import data_sets
from options import Help, Parser, data_set
from utils import RunError, UserError, at_once, atomic, parse_json, run, shown, text_of

BERKELEY = "http://efrosgans.eecs.berkeley.edu/"
MODEL_PAGE = "https://download.openmmlab.com/mmediting/cyclegan/refactor/"
OF_CUT = f"{BERKELEY}CUT/pretrained_models.tar"
OF_NICE = "https://github.com/alpc91/NICE-GAN-pytorch"

# test pictures that dataset/get.py does not have
OTHER_DATA = {
    "cityscapes_val_for_CUT": data_sets.Source(
        "https://github.com/taesungp/contrastive-unpaired-translation", (0, 0, 500, 500),
        (f"{BERKELEY}CUT/datasets/cityscapes_val_for_CUT.tar",), folders=("trainA", "trainB", "valA", "valB"),
    ),
}  # fmt: skip
ABSENT = {  # what our methods read and nobody can compare
    "GcGAN": "its page says that models will come; none is there",
    "MUNIT": "only edges2shoes is released, on a page without a direct address; its paper gives no FID of it",
    "SinCUT": "no number is published, and no checkpoint",
}


class Model(NamedTuple):
    """A released checkpoint and what is published of it."""

    url: str  # of the checkpoint, or of an archive that holds it
    data: str  # data set
    fid: float
    resize: str  # of the published number: legacy or clean
    source: str  # who published it
    kid: float | None = None  # x100
    clean: float | None = None  # FID with clean resizing
    inputs: str = "testA"  # folder of the data set that is translated
    direction: str = "AtoB"  # of the checkpoint; a lone generator has only this one
    member: str = ""  # path in the archive
    sha256: str = ""  # how the checkpoint's hash begins; "": unknown
    page: str = ""  # where people get it, if it has no direct address
    png: bool = True  # format of the translations that were scored; else that of the inputs

    @property
    def reference(self) -> str:
        return "testB" if self.inputs == "testA" else "testA"


def of_cut(name: str, data: str, fid: float, clean: float | None = None, **more) -> Model:
    member = f"checkpoints/{name}_pretrained/latest_net_G.pth"
    said = "CUT's paper; clean: the clean-fid page" if clean else "CUT's paper"
    return Model(OF_CUT, data, fid, "legacy", said, clean=clean, member=member, **more)


def of_cyclegan(name: str, data: str, fid: float, **more) -> Model:
    """A lone generator, which translates from A to B whatever it is called."""
    url = f"{BERKELEY}cyclegan/pretrained_models/{name}.pth"
    return Model(url, data, fid, "legacy", "the CycleGAN model page (OpenMMLab), official", **more)


def of_model_page(stem: str, sha256: str, data: str, fid: float, way: str = "AtoB") -> Model:
    source = "the CycleGAN model page (OpenMMLab), reimplemented; pictures in memory"
    inputs = "testA" if way == "AtoB" else "testB"
    return Model(f"{MODEL_PAGE}{stem}-{sha256}.pth", data, fid, "legacy", source, inputs=inputs, direction=way,
                 sha256=sha256)  # fmt: skip


def of_nice(fid: float, kid: float, way: str) -> Model:
    inputs = "testA" if way == "AtoB" else "testB"
    page = f"{OF_NICE}#restoring-from-the-previous-checkpoint"
    return Model("cat2dog_params_latest.pt", "cat2dog", fid, "legacy", "issue 5 of its repository", kid=kid,
                 inputs=inputs, direction=way, png=False, page=page)  # fmt: skip


LSGAN = "cyclegan_lsgan_resnet_in_1x1_"
ID0 = "cyclegan_lsgan_id0_resnet_in_1x1_"
S2W, H2Z = "246200_summer2winter_convert-bgr_20210902_", "266800_horse2zebra_convert-bgr_20210902_"

MODELS = {
    "cut_horse2zebra": of_cut("horse2zebra_cut", "horse2zebra", 45.5, 43.71),
    "fastcut_horse2zebra": of_cut("horse2zebra_fastcut", "horse2zebra", 73.4, 72.53),
    "cut_cat2dog": of_cut("cat2dog_cut", "afhq_cat2dog", 76.2, 77.58),
    "fastcut_cat2dog": of_cut("cat2dog_fastcut", "afhq_cat2dog", 94.0, 95.37),
    "cut_cityscapes": of_cut("cityscapes_cut", "cityscapes_val_for_CUT", 56.4, inputs="testB"),
    "fastcut_cityscapes": of_cut("cityscapes_fastcut", "cityscapes_val_for_CUT", 68.8, inputs="testB"),
    "cyclegan_horse2zebra": of_cyclegan("horse2zebra", "horse2zebra", 62.111),
    "cyclegan_zebra2horse": of_cyclegan("zebra2horse", "horse2zebra", 138.646, inputs="testB"),
    "cyclegan_summer2winter": of_cyclegan("summer2winter_yosemite", "summer2winter_yosemite", 77.342),
    "cyclegan_winter2summer": of_cyclegan("winter2summer_yosemite", "summer2winter_yosemite", 72.631, inputs="testB"),
    "cyclegan_facades": of_cyclegan("facades_label2photo", "facades", 123.626, inputs="testB"),
    "nice_cat2dog": of_nice(31.22, 0.317, "AtoB"),
    "nice_dog2cat": of_nice(43.56, 1.118, "BtoA"),
    "openmmlab_horse2zebra": of_model_page(f"{LSGAN}{H2Z}170004", "a32c733a", "horse2zebra", 64.5225),
    "openmmlab_zebra2horse": of_model_page(f"{LSGAN}{H2Z}170004", "a32c733a", "horse2zebra", 141.1571, "BtoA"),
    "openmmlab_summer2winter": of_model_page(f"{LSGAN}{S2W}165932", "fcf08dc1", "summer2winter_yosemite", 83.7177),
    "openmmlab_winter2summer": of_model_page(
        f"{LSGAN}{S2W}165932", "fcf08dc1", "summer2winter_yosemite", 72.8025, "BtoA"),
    "openmmlab_facades": of_model_page(f"{LSGAN}80k_facades_20210902_165905", "5e2c0876", "facades", 124.8033, "BtoA"),
    "openmmlab_id0_horse2zebra": of_model_page(f"{ID0}{H2Z}165724", "77c9c806", "horse2zebra", 74.777),
    "openmmlab_id0_zebra2horse": of_model_page(f"{ID0}{H2Z}165724", "77c9c806", "horse2zebra", 134.3728, "BtoA"),
    "openmmlab_id0_summer2winter": of_model_page(f"{ID0}{S2W}165640", "8b825581", "summer2winter_yosemite", 83.1418),
    "openmmlab_id0_winter2summer": of_model_page(
        f"{ID0}{S2W}165640", "8b825581", "summer2winter_yosemite", 73.5001, "BtoA"),
    "openmmlab_id0_facades": of_model_page(
        f"{ID0}80k_facades_convert-bgr_20210902_164411", "d8e72b45", "facades", 125.1694, "BtoA"),
}  # fmt: skip


def parse_args(argv=None):
    parser = Parser(prog="published.py", description=__doc__.split("\n")[0], formatter_class=Help)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=[*MODELS], metavar="NAME", help="see --list")
    parser.add_argument("--list", action="store_true", help="list names, data sets, published numbers and addresses")
    parser.add_argument("--dataset_dir", type=data_set, default="dataset", help="folder of the data sets")
    parser.add_argument("--out", type=data_set, default="results/published", help="folder of all that is made")
    parser.add_argument("--device", help="cuda, mps or cpu (default: the best present)")
    parser.add_argument("--weights", help="a file with Inception's weights, instead of the download")
    parser.add_argument("--features", choices=("inception", "efficientnet-lite0"), default="inception",
                        help="feature network; only inception's numbers can be compared")  # fmt: skip
    parser.add_argument("--options", help="further options of main.py for all translations, in quotes")
    args = parser.parse_args(argv)
    args.dataset_dir, args.out = Path(args.dataset_dir), Path(args.out)
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("published.py", parse_args)

import fid_kid
import main as main_py
from images.archives import damage, members
from images.download import fetch, sha256_of, writing_below
from training.run_record import commit, processor, version

# -------------------------------------------------------------------------------------------- files


def checkpoint(model: Model, folder: Path) -> Path:
    """The checkpoint's file below `folder`, fetched if it is not there.  UserError: it cannot be."""
    name = Path(model.url).name
    saved = folder / name
    if not saved.exists():
        by_hand = f"get it from {model.page or model.url} and save it as {shown(saved)}"
        if model.page:
            raise UserError(f"{name} has no direct address: {by_hand}")
        fetch(name, (model.url,), saved, by_hand, sha256="" if model.member else model.sha256)
    return unpacked(model, saved) if model.member else saved


def unpacked(model: Model, archive: Path) -> Path:
    """The checkpoint in an archive, beside it.  UserError: the archive is damaged, or lacks it."""
    path = archive.parent / Path(model.member).parent.name / Path(model.member).name
    if path.exists():
        return path
    with damage(shown(archive)), writing_below(archive.parent):
        for inside, _, opened in members(archive):
            if inside.as_posix().endswith(model.member):
                path.parent.mkdir(exist_ok=True)
                with opened() as data, atomic(path) as temporary:
                    temporary.write_bytes(data.read())
    if not path.exists():
        raise UserError(f"{shown(archive)} holds no {model.member}: fetch it again")
    return path


def pictures(model: Model, args) -> Path:
    """The folder of the data set, fetched if it is not there.  UserError: it cannot be."""
    source = OTHER_DATA.get(model.data) or data_sets.SOURCES[model.data]
    print(data_sets.get(model.data, args.dataset_dir, source), flush=True)
    return args.dataset_dir / model.data


def fingerprint(folder: Path) -> str:
    """SHA-256 of the names and contents of a folder's pictures, in order: its first 12 digits."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        digest.update(f"{path.name}\0{sha256_of(path)}\n".encode())
    return digest.hexdigest()[:12]


# ------------------------------------------------------------------------------------------- scores


def row(name: str, model: Model, args) -> dict:
    """Fetch, translate and score a model: everything that its row of the table says.  It is kept in a file."""
    place = args.out / name
    weights = checkpoint(model, args.out / "weights")
    root = pictures(model, args)
    made = {"weights": sha256_of(weights), "inputs": fingerprint(root / model.inputs),
            "reference": fingerprint(root / model.reference), "features": args.features}  # fmt: skip
    kept = parse_json(text_of(path)) if (path := place / "row.json").is_file() else {}
    if made.items() <= kept.items():
        return kept
    words = ["--phase=test", f"--checkpoint={weights}", f"--input={root / model.inputs}", f"--output={place / 'fake'}"]
    words += ["--keep_size=false", f"--direction={model.direction}", f"--png={str(model.png).lower()}"]
    words += [f"--device={args.device}"] * bool(args.device) + (args.options or "").split()
    main_py.main(words)
    found = made | {"date": time.strftime("%Y-%m-%d"), "pictures": [len([*(root / d).iterdir()]) for d in
                    (model.inputs, model.reference)]}  # fmt: skip
    for resize in ("legacy", "clean"):
        argv = [str(root / model.reference), str(place / "fake"), f"--resize={resize}", f"--features={args.features}"]
        argv += [f"--weights={args.weights}"] * bool(args.weights) + ["--gpu="] * (args.device == "cpu")
        report = fid_kid.score(fid_kid.parse_args(argv))
        fid, kid = ("fid", "kid") if args.features == "inception" else ("fd", "kd")
        found |= {f"fid_{resize}": report[fid], f"kid_{resize}": 100 * report[kid]}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def table(rows: dict[str, dict], failed: dict[str, str], args) -> str:
    """The table as Markdown, with what has to stand beside each number."""
    own = "FID" if args.features == "inception" else f"FD of {args.features} (comparable with no published number)"
    head = ["checkpoint", "set", f"{own}: legacy, clean", "published: legacy, clean", "legacy - published", "KID x100",
            "published", "translations", "published by", "SHA-256 of the weights", "date"]  # fmt: skip
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, found in rows.items():
        model, (n, m) = MODELS[name], found["pictures"]
        published = f"{model.fid:g}" + (f", {model.clean:g}" if model.clean else "")
        cells = [name, f"{model.data}: {n} of {model.inputs} v {m} of {model.reference}",
                 f"{found['fid_legacy']:.2f}, {found['fid_clean']:.2f}", published,
                 f"{found['fid_legacy'] - model.fid:+.2f}", f"{found['kid_legacy']:.3f}",
                 "" if model.kid is None else f"{model.kid:g}", "PNG" if model.png else "as the inputs, JPEG at 95",
                 model.source, found["weights"][:12], found["date"]]  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    versions = ", ".join(f"{package} {version(package)}" for package in ("torch", "torchvision", "numpy", "pillow"))
    texts = [f"# Released checkpoints, translated and scored here\n\n{chr(10).join(lines)}"]
    texts.append("Sets, references and resizing are those of the columns. Inputs are translated as the checkpoint's "
                 "method does in --phase test, at 256 pixels. The epoch is the released one.")  # fmt: skip
    if failed:
        texts.append("Not scored:\n\n" + "\n".join(f"- {name}: {why}" for name, why in failed.items()))
    absent = "\n".join(f"- {name}: {why}" for name, why in ABSENT.items())
    texts.append(f"Read by our methods, but nothing to compare:\n\n{absent}")
    texts.append(f"{processor()}; {versions}; program {of_program()}.")
    return "\n\n".join(texts) + "\n"


def of_program() -> str:
    """The commit of this program, and whether files were changed since."""
    known = commit()
    return known["commit"][:10] + " with changes" * (not known["clean"]) if known else "of unknown version"


def main(argv=None):
    args = parse_args(argv)
    if args.list:
        for name, model in MODELS.items():
            print(f"{name:28}{model.data:24}{model.fid:9g}  {model.page or model.url}")
        return
    rows, failed = {}, {}
    for name in args.models:
        print(f"{name}:", flush=True)
        try:
            rows[name] = row(name, MODELS[name], args)
        except RunError:  # of this machine: a full disk
            raise
        except UserError as error:
            failed[name] = str(error)
            print(f"not scored: {error}", file=sys.stderr)
    text = table(rows, failed, args)
    with atomic(args.out / "published.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    print(text)
    if not rows:
        raise UserError(f"no checkpoint could be scored; {shown(args.out / 'published.md')} says why")
    if missed := [name for name in failed if not MODELS[name].page]:
        raise RunError(f"{len(missed)} of {len(args.models)} checkpoints could not be scored: {', '.join(missed)}")


if __name__ == "__main__":
    run(main, "published.py")
