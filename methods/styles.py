"""What MUNIT and DRIT share: pictures with a content and a style."""

from options import Option, bounded, folder
from translation.pipeline import answer_suffixes

# of methods that draw one picture in many styles; what translate.Styled asks for
STYLES = (
    Option("run", "styles", bounded(int, 1, 1000), 1, "answers to each picture, in random styles; from 2 on "
           "NAME_style0.png, NAME_style1.png, ...; the authors' test programs draw 10 (MUNIT) and 5 (DRIT)"),
    Option("run", "style_from", folder, None, "translate in the style of this picture, an example of the domain to "
           "draw; without it styles are random, the same for the same picture and --seed", metavar="PICTURE"),
)  # fmt: skip


class Styled:
    """Mixed into a Trainer whose pictures have a content and a style; its options include options.STYLES.

    content(x, s)            the content of pictures x of domain s
    style_of(x, t)           the style of pictures x of domain t
    random_style(t)          a style of domain t for one picture, by torch's CPU generator alone
    draw_in(content, style, t)  that content drawn in domain t in that style
    style_keys(t)           as Trainer.inference_keys, of the network that style_of needs
    """

    SHOWN = 3  # styles in a sample grid
    example = None  # the picture of --style_from, (1,C,h,w) in [-1,1]

    def translate(self, x, s, t):
        return self.draw_in(self.content(x, s), self._styles(t, 1)[0], t)

    def translations(self, x, s, t):
        content, styles = self.content(x, s), self._styles(t, self.args.styles)
        drawn = [self.draw_in(content, style, t) for style in styles]
        return list(zip(answer_suffixes(len(styles)), drawn, strict=True))

    def visuals(self, x, s, t):
        """Input, reconstruction, translations in three styles."""
        content = self.content(x, s)
        fakes = [self.draw_in(content, self.random_style(t), t) for _ in range(self.SHOWN)]
        return [x, self.draw_in(content, self.style_of(x, s), s), *fakes]

    def export_function(self, s, t):
        style = self.random_style(t)
        what = f"style of each picture that is drawn, {tuple(style[0].shape)}: numbers of N(0,1), or an example's"
        return lambda x, style: self.draw_in(self.content(x, s), style, t), {"style": (style, what)}

    def all_inference_keys(self, s, t):
        return merged(self.inference_keys(s, t), self.style_keys(t))

    def _styles(self, t, n):
        return [self.random_style(t) for _ in range(n)] if self.example is None else [self.style_of(self.example, t)]


def merged(*parts: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """Parts of networks, together."""
    names = dict.fromkeys(name for some in parts for name in some)
    return {name: tuple(part for some in parts for part in some.get(name, ())) for name in names}
