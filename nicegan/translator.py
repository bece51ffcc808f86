"""From Python: Translator, pictures or tensors in, pictures or tensors out."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import methods
from checkpoints.files import newest_checkpoint
from images.decode import from_pil
from images.encode import with_alpha
from nicegan.command_line import parse_args, translation_options
from options import as_argv
from translation.pipeline import Pipeline, generate, pad_to_multiple, seeded_by, to_pixels, to_tensor_of
from utils import UserError


class Translator:
    """Translates with a checkpoint or a model file.

        t = Translator("results/cat2dog_params_latest.pt")
        t(picture, "AtoB").save("dog.png")

    checkpoint: a file, or a folder of a method's authors'; options: those of the command line by name, such as
    device="cuda", tile=256, style_from="cat.jpg", seed=1.  UserError: the file cannot be used.
    """

    def __init__(self, checkpoint: str | Path, **more):
        found = newest_checkpoint(Path(checkpoint), str(checkpoint), methods.recognise, to_translate=True)
        argv = ["--phase=test", f"--checkpoint={found[1]}", *as_argv(more)]
        self.trainer = methods.create(parse_args(argv, translation_options(*found)))
        self.pipeline = Pipeline(self.trainer, found).load(own_size=True)

    def __call__(self, pictures, direction: str | None = None):
        """Draw pictures in the other domain; direction: "AtoB" or "BtoA", needed where both are known.

        A PIL image (of any mode, with its orientation, colour profile and transparency) becomes one of its size; a
        list of them a list; a tensor (N,3,H,W) in [-1,1] another.  With styles=n each becomes a list of n.
        """
        s, t = self._way(direction)
        if isinstance(pictures, (list, tuple)):
            return [self(picture, direction) for picture in pictures]
        with self.pipeline.translating(s, t):
            answers = self._tensor(pictures, s, t) if isinstance(pictures, Tensor) else self._picture(pictures, s, t)
        return answers[0] if len(answers) == 1 else answers

    def _way(self, direction: str | None) -> tuple[str, str]:
        ways = {f"{self.trainer.folder[s]}to{self.trainer.folder[t]}": (s, t) for s, t in self.pipeline.directions}
        if direction is None and len(ways) == 1:
            return self.pipeline.directions[0]
        if direction not in ways:
            raise UserError(f"{self.pipeline.path} translates {' and '.join(ways)}, not {direction}: give one of them")
        return ways[direction]

    def _picture(self, picture: Image.Image, s: str, t: str) -> list[Image.Image]:
        colours, alpha = from_pil(picture)
        x, h, w = pad_to_multiple(self.trainer, self.trainer.to_input(colours, self.pipeline.side)[None].to(self.trainer.device))
        drawn = [to_pixels(y, h, w) for y in self._drawn(x, picture.tobytes(), s, t)]
        return [Image.fromarray(with_alpha(array, alpha)) for array in drawn]

    def _tensor(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        channels = self.trainer.architecture["img_ch"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise UserError(f"a tensor of pictures is (N,{channels},H,W) in [-1,1], not {tuple(x.shape)}")
        pictures = []
        for one in x.float().split(1):
            padded, h, w = pad_to_multiple(self.trainer, one.to(self.trainer.device))
            content = np.ascontiguousarray(one.cpu().numpy()).tobytes()
            drawn = self._drawn(padded, content, s, t)
            pictures.append([to_tensor_of(y)[:, :, :h, :w] for y in drawn])
        return [torch.cat(answers) for answers in zip(*pictures, strict=True)]

    def _drawn(self, x: Tensor, content: bytes, s: str, t: str) -> list:
        """All answers to one picture (1,C,H,W); their random styles depend on its content."""
        with seeded_by(content, self.trainer.args.seed), self.trainer._autocast():
            return [y for _, y in generate(self.trainer, x, s, t)]
