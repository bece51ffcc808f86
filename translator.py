"""From Python: Translator, pictures or tensors in, pictures or tensors out."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import checkpoints
import decoding
import inputs
import methods
import options
import translate
from utils import UserError, evaluating


class Translator:
    """Translates with a checkpoint or a model file.

        t = Translator("results/cat2dog_params_latest.pt")
        t(picture, "AtoB").save("dog.png")

    checkpoint: a file, or a folder of a method's authors'; options: those of the command line by name, such as
    device="cuda", tile=256, style_from="cat.jpg", seed=1.  UserError: the file cannot be used.
    """

    def __init__(self, checkpoint: str | Path, **more):
        import main  # not above: it imports what imports this

        state, path = checkpoints.newest_checkpoint(Path(checkpoint), str(checkpoint), to_translate=True)
        argv = ["--phase=test", f"--checkpoint={path}", *options.as_argv(more)]
        args = main.parse_args(argv, checkpoints.to_translate_with(state, path))
        self.trainer, self.path = methods.create(args), path
        self.directions = translate.directions_of(self.trainer, state, path)
        with torch.no_grad():
            self.side = inputs.side_of(self.trainer, translate.load(self.trainer, state, path, self.directions))

    @torch.no_grad()
    def __call__(self, pictures, direction: str | None = None):
        """Draw pictures in the other domain; direction: "AtoB" or "BtoA", needed where both are known.

        A PIL image (of any mode, with its orientation, colour profile and transparency) becomes one of its size; a
        list of them a list; a tensor (N,3,H,W) in [-1,1] another.  With styles=n each becomes a list of n.
        """
        s, t = self._way(direction)
        if isinstance(pictures, (list, tuple)):
            return [self(picture, direction) for picture in pictures]
        with evaluating(self.trainer.networks().values()):
            translate.set_example(self.trainer, self.side, s, t)
            answers = self._tensor(pictures, s, t) if isinstance(pictures, Tensor) else self._picture(pictures, s, t)
        return answers[0] if len(answers) == 1 else answers

    def _way(self, direction: str | None) -> tuple[str, str]:
        ways = {f"{self.trainer.folder[s]}to{self.trainer.folder[t]}": (s, t) for s, t in self.directions}
        if direction is None and len(ways) == 1:
            return self.directions[0]
        if direction not in ways:
            raise UserError(f"{self.path} translates {' and '.join(ways)}, not {direction}: give one of them")
        return ways[direction]

    def _picture(self, picture: Image.Image, s: str, t: str) -> list[Image.Image]:
        colours, alpha = decoding.from_pil(picture)
        x, h, w = translate.padded(self.trainer, self.trainer.fit(colours, self.side)[None].to(self.trainer.device))
        drawn = [translate.pixels(y, h, w) for y in self._drawn(x, picture.tobytes(), s, t)]
        return [Image.fromarray(inputs.with_alpha(array, alpha)) for array in drawn]

    def _tensor(self, x: Tensor, s: str, t: str) -> list[Tensor]:
        channels = self.trainer.architecture["img_ch"]
        if x.dim() != 4 or x.shape[1] != channels:
            raise UserError(f"a tensor of pictures is (N,{channels},H,W) in [-1,1], not {tuple(x.shape)}")
        pictures = []
        for one in x.float().split(1):
            padded, h, w = translate.padded(self.trainer, one.to(self.trainer.device))
            content = np.ascontiguousarray(one.cpu().numpy()).tobytes()
            drawn = self._drawn(padded, content, s, t)
            pictures.append([translate.values(y)[:, :, :h, :w] for y in drawn])
        return [torch.cat(answers) for answers in zip(*pictures, strict=True)]

    def _drawn(self, x: Tensor, content: bytes, s: str, t: str) -> list:
        """All answers to one picture (1,C,H,W); their random styles depend on its content."""
        with translate.codes_of(content, self.trainer.args.seed), self.trainer._autocast():
            return [y for _, y in translate.drawn(self.trainer, x, s, t)]
