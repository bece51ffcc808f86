"""Translation of any picture: tiles without seams, names, orientation, colours, transparency; Translator."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import HERE, images
from drawers import lively, saved
from pictures import one_line, save, scene
from PIL import Image
from test_decoding import SWAPPED
from test_methods import SMALL

import main
import methods
from images.decode import read_image
from nicegan import Translator
from training.cost import LiveBytes, dry_run
from translation.pipeline import to_tensor
from translation.tiling import layers, maps
from translation.tiling import plan as plan_module
from translation.tiling.layers import OPERATIONS, banded
from translation.tiling.maps import NotTileable, Plan, Sums
from translation.tiling.plan import ROUGHLY, free_memory, plan_for
from utils import DiskError, UserError, evaluating

# ------------------------------------------------------------------------------------------- tiles

VARIANTS = {"shared 1": ("nice", "--shared_layers 1"), "shared 3": ("nice", "--shared_layers 3"),
            "no attention": ("nice", "--ra false --heads 1"), "modulated": ("drit", "--concat 0")}  # fmt: skip
ELSEWHERE = ("fastcut", "gcgan", "sincut", "sincyclegan")
TILED = {m: (m, "") for m in SMALL if m not in ELSEWHERE} | VARIANTS  # those are tested elsewhere


@torch.no_grad()
def in_bands(model, x, rows, memory, s="A", t="B"):
    """The translation of x in bands of `rows` rows, with `memory` bytes for maps in memory."""
    torch.manual_seed(3)
    return to_tensor(model.translate(banded(x, Plan(x.shape[2], rows, memory)), s, t), *x.shape[2:])


@torch.no_grad()
def at_once(model, x, s="A", t="B"):
    torch.manual_seed(3)
    return model.translate(x, s, t)


def picture(height=88, width=56):
    """A picture whose parts have other statistics than the whole."""
    ramp = torch.linspace(-0.7, 0.7, height).view(-1, 1) * torch.tensor([1.0, -1.0, 0.5]).view(1, 3, 1, 1)
    return (images(1, max(height, width), 4)[:, :, :height, :width] * 0.3 + ramp).clamp(-1, 1)


@pytest.mark.parametrize("name", TILED)
def test_tiles_are_the_whole_for_every_method(name):
    """Bands of any height, maps in memory, in a file, or computed again: equal but for rounding."""
    model, x = lively(*TILED[name]), picture()
    expected = at_once(model, x)
    assert expected.std() > 0.05
    for rows, memory in ((16, 1e9), (20, 0), (88, 3e4)):
        found = in_bands(model, x, rows, memory)
        torch.testing.assert_close(found, expected, rtol=0, atol=3e-5)


def last_sums(monkeypatch):
    """Statistics of the last band alone."""
    monkeypatch.setattr(Sums, "add", keep_the_last_band)
    monkeypatch.setattr(Sums, "moments", of_the_last_band)


def no_halo(monkeypatch):
    """A convolution sees its second last row of a band twice, in place of the last."""
    pad = layers.pad

    def blind(*args, **kwargs):
        y = pad(*args, **kwargs)
        whole = y.compute

        def compute(a, b):
            rows = whole(a, b).clone()
            rows[:, :, -1] = rows[:, :, -2]
            return rows

        y.compute = compute
        return y

    monkeypatch.setitem(OPERATIONS, "pad", blind)


@pytest.mark.parametrize("spoil", [last_sums, no_halo])
def test_wrong_statistics_or_borders_would_show(spoil, monkeypatch):
    model, x = lively("cyclegan"), picture()
    expected = at_once(model, x)
    spoil(monkeypatch)
    assert (in_bands(model, x, 16, 1e9) - expected).abs().max() > 1e-3


def keep_the_last_band(self, x):
    self.last = x.double()


def of_the_last_band(self, dims, correction):
    return torch.var_mean(self.last, dims, correction=correction, keepdim=True)


def test_the_program_tiles_when_memory_asks_for_it(monkeypatch):
    model, x = lively("cyclegan"), picture(400, 60)
    assert plan_for(model, x.shape) is None
    monkeypatch.setattr(plan_module, "free_memory", lambda device: 2**19)
    plan = plan_for(model, x.shape)
    needed = ROUGHLY * 400 * 60 * model.architecture["ch"]
    assert 16 <= plan.rows < 400 and plan.budget < 2**19 < needed and plan.rows * needed / 400 < 2**19
    model.args.tile = 0
    assert plan_for(model, x.shape) is None
    assert 2**26 <= tiles_free(monkeypatch) < 2**46


@pytest.mark.parametrize("method", [name for name in methods.METHODS if not methods.load(name).tiles_itself])
def test_the_rough_bound_is_above_what_a_picture_takes(method):
    """The peak of feature maps, counted on the meta device; methods of single pictures have their own tiles."""
    args = main.parse_args(["--phase", "info", "--method", method, "--device", "cpu"])
    model = dry_run(methods.load(method), args)
    with LiveBytes() as live, torch.device("meta"), torch.no_grad(), evaluating(model.networks().values()):
        before = live.now
        model.translate(torch.empty(1, 3, args.img_size, args.img_size), *model.directions[0])
    assert 1.4 * (live.peak - before) < ROUGHLY * args.img_size**2 * args.ch


def tiles_free(monkeypatch):
    monkeypatch.undo()
    return free_memory(torch.device("cpu"))


def test_what_has_no_meaning_in_tiles_says_so():
    x = banded(picture(), Plan(88, 16, 1e9))
    for nonsense in (lambda: x * x, lambda: torch.cumsum(x, 2), lambda: torch.cat((x, x), 0), lambda: x.chunk(2, 1)):
        with pytest.raises(NotTileable) as error:
            nonsense()
        one_line(error, "--tile 0")


# ----------------------------------------------------------------------------------------- program


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Checkpoints: of two directions, of one, of styles, and bound to a size."""
    folder = tmp_path_factory.mktemp("files")
    bound = saved(folder, "nice", "--light false", name="bound")
    return {m: saved(folder, m, name=m) for m in ("cyclegan", "gcgan", "munit")} | {"bound": bound}


@pytest.fixture
def run(files, tmp_path, monkeypatch):
    """Calls main.py --phase test on a checkpoint in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def call(text: str, method: str = "cyclegan", direction: str = "--direction AtoB"):
        argv = f"--phase test --device cpu --checkpoint {files[method]} {direction} {text}".split()
        main.main(argv)

    return call


def read(path) -> np.ndarray:
    return np.asarray(Image.open(path))


def translated(file, pixels, direction="AtoB"):
    """The translation of (H,W,3) uint8 by Translator."""
    return np.asarray(Translator(file, device="cpu")(Image.fromarray(pixels), direction))


def phone_picture(path, upright):
    """A camera's file: on its side, with orientation 6 and a colour profile."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return save(path, np.ascontiguousarray(np.rot90(upright)), exif=exif, icc_profile=SWAPPED)


def test_a_phone_picture_comes_out_upright_in_srgb_at_its_size(run, files, tmp_path):
    path = phone_picture(tmp_path / "in" / "photo.png", scene(70, 50))
    upright = np.asarray(read_image(path))
    assert upright.shape == (50, 70, 3) and not np.array_equal(upright, scene(70, 50))
    for tile in ("", "--tile 16"):
        run(f"--input in/photo.png --output out {tile}")
        found = Image.open("out/photo.png")
        assert found.mode == "RGB" and "icc_profile" not in found.info and not found.getexif().get(0x0112)
        assert np.abs(np.asarray(found).astype(int) - translated(files["cyclegan"], upright)).max() <= 1


def test_large_pictures_are_named_once_and_shrunk_on_demand(run, files, tmp_path, capfd):
    for name, w, h in (("a.png", 60, 40), ("b.png", 150, 100), ("c.png", 20, 30)):
        save(tmp_path / "in" / name, np.dstack((scene(w, h), np.full((h, w), 9, np.uint8))))
    run("--input in --output out")
    said = capfd.readouterr().err
    assert said.count(" of the training") == 1 and "b.png has 150 x 100 pixels, 3 times the 32 of the training" in said
    assert "--shortest 32 translates it at that scale" in said and read("out/b.png").shape == (100, 150, 4)
    run("--input in --output shorter --shortest 32")
    assert [read(f"shorter/{n}.png").shape for n in "abc"] == [(32, 48, 4), (32, 48, 4), (30, 20, 4)]
    run("--input in/b.png --output longer --longest 60")
    assert read("longer/b.png").shape == (40, 60, 4) and " of the training" not in capfd.readouterr().err
    t = Translator(files["cyclegan"], device="cpu", longest=60)
    again = np.asarray(t(Image.open(tmp_path / "in" / "b.png"), "AtoB"))
    assert np.array_equal(again, read("longer/b.png"))
    for more in ("--input in --output no --keep_size false --longest 60", "--longest 60 --dataset_dir . --dataset in"):
        with pytest.raises((UserError, SystemExit)):
            run(more)
    assert not (tmp_path / "no").exists()


def test_transparency_is_put_back(run, files, tmp_path):
    alpha = np.linspace(0, 255, 50 * 70).reshape(50, 70).astype(np.uint8)
    given = np.dstack((scene(70, 50), alpha))
    save(tmp_path / "in" / "a.png", given)
    save(tmp_path / "in" / "b.webp", given, lossless=True, exact=True)
    save(tmp_path / "in" / "c.jpg", scene(70, 50))
    run("--input in --output out")
    for name in ("a.png", "b.webp"):
        found = Image.open(f"out/{name}")
        assert found.mode == "RGBA" and np.array_equal(np.asarray(found)[..., 3], alpha)
    assert Image.open("out/c.jpg").mode == "RGB"
    on_white = np.asarray(read_image(tmp_path / "in" / "a.png"))
    assert np.array_equal(read("out/a.png")[..., :3], translated(files["cyclegan"], on_white))
    again = Translator(files["cyclegan"], device="cpu")(Image.fromarray(given), "AtoB")
    assert np.array_equal(np.asarray(again), read("out/a.png"))


def test_folders_and_patterns_keep_names(run, tmp_path, capfd):
    names = ["frame_0001.png", "frame_0002.png", "night/frame_0001.png", "night/still.gif"]
    for seed, name in enumerate(names):
        save(tmp_path / "film" / name, Image.fromarray(scene(32, 28, seed)))
    (tmp_path / "film" / "notes.txt").write_text("no picture")
    run("--input film --output out")
    written = sorted(p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.*"))
    assert written == [*names[:3], "night/still.gif.png"]
    run("--input film/*/frame*.png --output two", direction="--direction BtoA")
    assert [p.name for p in (tmp_path / "two").rglob("*.png")] == ["frame_0001.png"]
    assert (tmp_path / "two" / "night" / "frame_0001.png").exists()
    assert not np.array_equal(read("two/night/frame_0001.png"), read("out/night/frame_0001.png"))
    run("--input film/frame_0002.png --output three --keep_size false")
    assert read("three/frame_0002.png").shape == (32, 32, 3)
    assert "notes.txt" in capfd.readouterr().err


def test_methods_of_one_way_need_no_direction(run, tmp_path):
    save(tmp_path / "x.png", scene(33, 29))
    run("--input x.png --output out", "gcgan", "")
    assert read("out/x.png").shape == (29, 33, 3)
    with pytest.raises(UserError) as error:
        run("--input x.png --output out", "gcgan", "--direction BtoA")
    one_line(error, "has learned AtoB alone")
    back = saved(tmp_path / "back", "gcgan", "--direction BtoA")
    main.main(f"--phase export --device cpu --checkpoint {back} --output {tmp_path}/back.pt".split())
    for path in (back, tmp_path / "back.pt"):
        fake = Translator(path, device="cpu")(Image.fromarray(scene(33, 29)), "BtoA")
        assert np.asarray(fake).shape == (29, 33, 3)


def test_networks_bound_to_a_size_say_so_once(run, tmp_path, capfd):
    for i in range(2):
        save(tmp_path / "in" / f"{i}.png", scene(60, 40, i))
    run("--input in --output out", "bound")
    assert [read(f"out/{i}.png").shape for i in range(2)] == [(48, 48, 3)] * 2
    assert capfd.readouterr().err.count("bound to their size: pictures are resized to 48 x 48") == 1


def test_styles_and_an_example(run, tmp_path):
    save(tmp_path / "x.png", scene(40, 36))
    save(tmp_path / "style.png", scene(52, 44, 5))
    run("--input x.png --output out --styles 2", "munit")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["x_style0.png", "x_style1.png"]
    for tile in ("0", "16"):  # of the example, too
        run(f"--input x.png --output out{tile} --style_from style.png --tile {tile}", "munit")
    assert np.abs(read("out0/x.png").astype(int) - read("out16/x.png")).max() <= 1


MISTAKES = [
    ("--input in --output out", "", "translates both ways", "--direction AtoB or --direction BtoA"),
    ("--input in", None, "--output DIR"),
    ("--input nothing.png --output out", None, "nothing.png does not exist"),
    ("--input in/*.tif --output out", None, "in/*.tif matches no file", "check the pattern"),
    ("--input in/*.txt --output out", None, "none of which is a picture"),
    ("--input in --output in", None, "would overwrite in/a.png"),
    ("--input in/a.png --output in", None, "would overwrite in/a.png"),
    ("--input in --output in/out", None, "lies in --input in", "outside of it"),
    ("--input in --output in/a.png", None, "names one picture, --input 2"),
    ("--input in --output out", "bad", "bad.png", "--skip_bad_images"),
]


@pytest.mark.parametrize("text, change, words", [(text, change, words) for text, change, *words in MISTAKES])
def test_a_mistake_is_one_line_and_writes_nothing(run, tmp_path, text, change, words):
    for name in ("a.png", "b.png"):
        save(tmp_path / "in" / name, scene(24, 24))
    (tmp_path / "in" / "notes.txt").write_text("no picture")
    if change == "bad":
        (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(UserError) as error:
        run(text, direction="" if change == "" else "--direction AtoB")
    assert error.value.status == 2
    one_line(error, *words)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_bad_pictures_can_be_skipped(run, tmp_path, capfd):
    save(tmp_path / "in" / "a.png", scene(24, 24))
    (tmp_path / "in" / "bad.png").write_bytes(b"no picture")
    run("--input in --output out --skip_bad_images true")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["a.png"] and "bad.png" in capfd.readouterr().err


def test_results_of_one_name_are_refused(run, tmp_path):
    for name in ("a.png", "a_style0.png"):
        save(tmp_path / "in" / name, scene(24, 24))
    save(tmp_path / "in" / "a_style0_style0.png", scene(24, 24))
    run("--input in --output out --styles 2", "munit")
    assert len(list((tmp_path / "out").iterdir())) == 6
    (tmp_path / "out" / "a_style0.png").unlink()
    (tmp_path / "out" / "a_style0.png").symlink_to(tmp_path / "out" / "a_style1.png")
    with pytest.raises(UserError) as error:
        run("--input in --output out --styles 2", "munit")
    one_line(error, "would both become")


@pytest.mark.parametrize("typed, words", [
    ("--input x.png", "--phase test: add that"), ("--output out", "--result_dir"), ("--tile -1", "at least 0"),
    ("--phase info --input x.png", "--phase test"), ("--format coreml", "onnx"),
    ("--half true", "--amp"), ("--longest 9", "--phase test --input"),
])  # fmt: skip
def test_options_out_of_place(typed, words, capsys):
    with pytest.raises(SystemExit) as end:
        main.parse_args(typed.split())
    said = capsys.readouterr().err
    assert end.value.code == 2 and words in said and said.count("\n") == 1


def test_a_pattern_that_the_shell_has_spelled_out(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        save(tmp_path / name, scene(24, 24))
    with pytest.raises(SystemExit):
        main.parse_args(["--phase", "test", "--input", "a.png", "b.png", "--output", "out"])
    assert "has to be quoted: --input '*.jpg'" in capsys.readouterr().err


def test_a_full_disk_is_one_line(monkeypatch):
    model, x = lively("cyclegan"), picture()
    monkeypatch.setattr(maps.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
    with pytest.raises(DiskError) as error:
        in_bands(model, x, 16, 0)
    one_line(error, "more than memory and", "TMPDIR")
    in_bands(model, x, 16, 1e9)


# ------------------------------------------------------------------------------------- from Python


def test_pictures_lists_and_tensors(files):
    t = Translator(files["cyclegan"], device="cpu")
    first, second = (Image.fromarray(scene(37, 30, seed)) for seed in range(2))
    one, two = t([first, second], "AtoB")
    assert one.size == (37, 30) and np.array_equal(np.asarray(t(first, "AtoB")), np.asarray(one))
    assert not np.array_equal(np.asarray(t(first, "BtoA")), np.asarray(one))
    x = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) / 127.5 - 1 for p in (first, second)])
    y = t(x, "AtoB")
    assert y.shape == x.shape and y.dtype == torch.float32 and not y.requires_grad
    for fake, p in zip(y, (one, two), strict=True):
        assert np.abs(((fake + 1) * 127.5).permute(1, 2, 0).numpy() - np.asarray(p)).max() < 0.51
    tiled = Translator(files["cyclegan"], device="cpu", tile=12)
    torch.testing.assert_close(tiled(x, "AtoB"), y, rtol=0, atol=3e-5)
    several = Translator(files["munit"], device="cpu", styles=3)(first, "AtoB")
    assert [p.size for p in several] == [(37, 30)] * 3
    for wrong in (lambda: t(first), lambda: t(first, "AtoC"), lambda: t(x[0], "AtoB")):
        with pytest.raises(UserError):
            wrong()


def test_the_lines_of_the_docs_run(files, tmp_path, monkeypatch):
    page = (HERE.parent / "docs" / "translation.md").read_text("utf-8")
    section = page.split("## From Python")[1].split("\n## ")[0]
    code = "\n".join(line[4:] for line in re.search(r"\n\n((?:    .*\n|\n)+)", section)[1].splitlines())
    assert 'Translator("results/cat2dog_params_latest.pt")' in code
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "cat2dog_params_latest.pt").write_bytes(files["cyclegan"].read_bytes())
    save(tmp_path / "cat.jpg", scene(41, 33))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "translation.md", "exec"), {})
    assert Image.open("dog.png").size == (41, 33) and np.array_equal(read("dog.png"), read("dog2.png"))
