"""A user study of which method's translations people prefer: a page of questions, and a key to evaluate the answers.

    python figure/study.py --input dataset/cat2dog/testA NICE-GAN=results/cat2dog/fakeB CycleGAN=../cyclegan/fakeB
    python figure/study_table.py study answers-*.json

The first command writes study/page, to hand out, and study/key.json, to keep: the page contains neither the methods'
names nor which picture belongs to which method.  It shows each input with all translations in random order, keeps the
choices in the browser, and at the end saves them as a file.  study_table.py makes a table of any number of such files.
"""

import hashlib
import json
import random
from pathlib import Path

import compare
import webpage
from common import UserError, bounded, run
from PIL import Image

from images.decode import read_image
from utils import atomic, shown

QUESTION = "Which of these is the best translation of the picture above?"


def main(argv=None):
    parser = webpage.parser(__doc__)
    add = parser.add_argument
    add("methods", nargs="+", metavar="METHOD=DIR", help="a method's name and its folder of pictures")
    add("--input", type=Path, required=True, metavar="DIR", help="folder of the input pictures")
    add("--questions", type=bounded(int, 1), default=50, help="maximum number of inputs, evenly spread over the folder")
    add("--question", default=QUESTION, help="text of the question")
    add("--title", default="Which picture is better?", help="title of the page, which participants see")
    add("--size", type=bounded(int, 16), default=256, help="side of all pictures in pixels, so that sizes tell nothing")
    add("--seed", type=int, default=0, help="seed of the random file names")
    add("--out", type=Path, default=Path("study"), metavar="DIR", help="folder of page and key")
    args = parser.parse_args(argv)
    methods = [compare.method(text) for text in args.methods]
    names = [name for name, _ in methods]
    if len(set(names)) < len(names) or len(names) < 2:
        raise UserError("a study compares two methods or more, each with a name of its own: METHOD=DIR METHOD=DIR")
    inputs = compare.by_stem(args.input)
    found = {name: compare.by_stem(folder) for name, folder in methods}
    stems = compare.choose(inputs, None, args.questions, args.input)
    for name, folder in methods:
        if missing := [stem for stem in stems if stem not in found[name]]:
            raise UserError(
                f"{shown(folder)} has no picture {shown(missing[0])}; translate {shown(args.input)} with {shown(name)}"
            )

    # a random word for each picture, so that its name tells nothing
    each = 1 + len(names)
    words = [f"{i:05x}" for i in random.Random(args.seed).sample(range(16**5), len(stems) * each)]
    jobs, key = {}, {}  # {word: path of the picture}; {word of the question: what the page must not contain}
    for stem in stems:
        word, *others = (words.pop() for _ in range(each))
        key[word] = {"input": stem.as_posix(), "answers": dict(zip(others, names, strict=True))}
        jobs |= {word: inputs[stem]} | {w: found[name][stem] for w, name in zip(others, names, strict=True)}
    study = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    refuse_other(args.out / "key.json", study)

    with webpage.folder(args.out / "page") as page:

        def write(word):
            picture = read_image(jobs[word]).resize((args.size, args.size), Image.Resampling.BICUBIC)
            return word, webpage.save(picture, page, word)

        questions = [{"id": word, "answers": sorted(key[word]["answers"])} for word in sorted(key)]
        pictures = dict(webpage.each(write, sorted(jobs), "pictures"))
        texts = {"title": args.title, "question": args.question}
        webpage.write(page, "study", {"study": study, **texts, "questions": questions, "pictures": pictures})
        with atomic(args.out / "key.json") as temporary:
            temporary.write_text(json.dumps({"study": study, "methods": names, "questions": key}, indent=1), "utf-8")
    print(f"and {shown(args.out / 'key.json')}: keep it, it tells which picture belongs to which method")


def refuse_other(path: Path, study: str):
    """UserError if `path` is the key of another study, which its answers need."""
    try:
        same = not path.exists() or json.loads(path.read_text(encoding="utf-8"))["study"] == study
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"{shown(path)} is the key of another study, which its answers need; choose another --out")


if __name__ == "__main__":
    run(main, "study.py")
