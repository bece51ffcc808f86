"""Translator: translate pictures or tensors with a trained model, from Python."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import methods
from checkpoints.files import newest_checkpoint
from images.decode import alpha_of, from_pil, read_image
from images.encode import to_image, with_alpha
from nicegan.command_line import parse_args, translation_options
from options import as_argv
from translation.pipeline import Pipeline, direction_name, scale_of, to_pixels, to_tensor, translations
from utils import UserError


class Translator:
    """Translates with a checkpoint or a model file.

        t = Translator("results/cat2dog_params_latest.pt")
        t("cat.jpg", "AtoB").save("dog.png")

    checkpoint: a file, or a folder with the files of a method's authors; options: those of the command line by name,
    such as device="cuda", tile=256, style_from="cat.jpg", seed=1.  UserError: the file cannot be used.
    """

    def __init__(self, checkpoint: str | Path, **more):
        recognise = methods.recogniser(more.get("method"))
        found = newest_checkpoint(Path(checkpoint), str(checkpoint), recognise, to_translate=True)
        argv = ["--phase=test", f"--checkpoint={found[1]}", *as_argv(more)]
        self.trainer = methods.create(parse_args(argv, translation_options(*found)), empty=True)
        if self.trainer.args.deep:
            raise UserError("Translator gives PIL images of 8 bits a band: leave deep out, and give a tensor for more")
        self.pipeline = Pipeline(self.trainer, found).load(own_size=True)

    def __call__(self, pictures, direction: str | None = None):
        """Translate pictures; direction: "AtoB" or "BtoA", needed if the checkpoint translates both ways.

        A PIL image (of any mode, with its orientation, colour profile and transparency) or the path of a picture file
        becomes an image of its size; a list becomes a list; a tensor (N,3,H,W) in [-1,1] another.  With styles=n each
        becomes a list of n.
        """
        s, t = self._direction(direction)
        if isinstance(pictures, (list, tuple)):
            return [self(picture, direction) for picture in pictures]
        with self.pipeline.translating(s, t):
            answers = self._tensor(pictures, s, t) if isinstance(pictures, Tensor) else self._picture(pictures, s, t)
        return answers[0] if len(answers) == 1 else answers

    def _direction(self, name: str | None) -> tuple[str, str]:
        known = {direction_name(self.trainer, *d): d for d in self.pipeline.directions}
        if name is None and len(known) == 1:
            return self.pipeline.directions[0]
        if name not in known:
            raise UserError(f"{self.pipeline.path} translates {' and '.join(known)}, not {name}: give one of them")
        return known[name]

    def _picture(self, picture: Image.Image | str | Path, s: str, t: str) -> list[Image.Image]:
        scale = scale_of(self.trainer, s)
        if isinstance(picture, Image.Image):
            (colours, alpha), content = from_pil(picture, scale), picture.tobytes()
        else:
            content = Path(picture).expanduser()
            colours, alpha = read_image(content, scale), alpha_of(content)
        x = self.trainer.to_input(self.trainer.shrunk(colours), self.pipeline.side)[None]
        fakes = self._translate(x, content, s, t, to_pixels)
        return [to_image(with_alpha(array, alpha)) for array in fakes]

    def _tensor(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        channels = self.trainer.architecture["img_ch"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise UserError(f"a tensor of pictures is (N,{channels},H,W) in [-1,1], not {tuple(x.shape)}")
        fakes = []
        for one in x.float().split(1):
            content = np.ascontiguousarray(one.cpu().numpy()).tobytes()
            fakes.append(self._translate(one, content, s, t, to_tensor))
        return [torch.cat(answers) for answers in zip(*fakes, strict=True)]

    def _translate(self, x: Tensor, content: Path | bytes, s: str, t: str, convert: Callable) -> list:
        """All translations of one picture (1,C,h,w); its content seeds their random styles."""
        return [y for _, y in translations(self.trainer, x, content, s, t, convert)]
