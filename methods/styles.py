"""What MUNIT and DRIT share: translations that combine a content with one of many styles."""

from translation.pipeline import answer_suffixes


class Styled:
    """Mixed into a Trainer whose translations combine a content and a style; options: STYLES.

    content(x, s)              the content of pictures x of domain s
    style_of(x, t)             the style of pictures x of domain t
    random_style(t)            a style of domain t for one picture, from torch's CPU generator only
    decode(content, style, t)  the picture of domain t with that content and style
    style_keys(t)              the weights that style_of needs, as in Trainer.inference_keys
    """

    SHOWN = 3  # styles in a sample grid
    example = None  # the picture of --style_from, (1,C,h,w) in [-1,1]

    def translate(self, x, s, t):
        return self.decode(self.content(x, s), self._styles(t, 1)[0], t)

    def translations(self, x, s, t):
        content, styles = self.content(x, s), self._styles(t, self.args.styles)
        fakes = [self.decode(content, style, t) for style in styles]
        return list(zip(answer_suffixes(len(styles)), fakes, strict=True))

    def visuals(self, x, s, t):
        """Input, reconstruction, translations in three styles."""
        content = self.content(x, s)
        fakes = [self.decode(content, self.random_style(t), t) for _ in range(self.SHOWN)]
        return [x, self.decode(content, self.style_of(x, s), s), *fakes]

    def export_function(self, s, t):
        style = self.random_style(t)
        what = f"style of each translation, {tuple(style[0].shape)}: random numbers N(0,1), or an example's"
        return lambda x, style: self.decode(self.content(x, s), style, t), {"style": (style, what)}

    def all_inference_keys(self, s, t):
        keys, style_keys = self.inference_keys(s, t), self.style_keys(t)
        return {name: (*keys.get(name, ()), *style_keys.get(name, ())) for name in (*keys, *style_keys)}

    def _styles(self, t, n):
        """n styles of domain t: random ones, or the example's, n times: then --styles gives equal pictures."""
        if self.example is not None:
            return [self.style_of(self.example, t)] * n
        return [self.random_style(t) for _ in range(n)]
