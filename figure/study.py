"""A user study: which method's answer to a picture people prefer.  A page that asks, and a key to read the answers.

    python figure/study.py --input dataset/cat2dog/testA NICE-GAN=results/cat2dog/fakeB CycleGAN=../cyclegan/fakeB
    python figure/study_table.py study answers-*.json

writes study/page, to be handed out, and study/key.json, to be kept: the page knows neither the methods' names nor
which picture is whose.  It shows each input with all answers in random order, keeps the choices in the browser, and at
the end gives them out as a file; study_table.py makes a table of any number of these.
"""

import hashlib
import json
import random
from pathlib import Path

import common
import compare
import webpage
from common import UserError, run
from PIL import Image

from images.decode import read_image
from utils import atomic, shown

QUESTION = "Which of these is the best translation of the picture above?"


def main(argv=None):
    parser = webpage.parser(__doc__)
    parser.add_argument("methods", nargs="+", metavar="METHOD=DIR", help="a method's name and its pictures")
    parser.add_argument("--input", type=Path, required=True, metavar="DIR", help="folder of the pictures translated")
    parser.add_argument(
        "--questions",
        type=common.at_least(1),
        default=50,
        help="pictures asked about at most, evenly spread over the folder",
    )
    parser.add_argument("--question", default=QUESTION, help="what is asked")
    parser.add_argument("--title", default="Which picture is better?", help="the page's title; participants see it")
    parser.add_argument(
        "--size",
        type=common.at_least(16),
        default=256,
        help="side of all pictures in pixels, so that none is known by its size",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the names that hide the pictures' origin")
    parser.add_argument("--out", type=Path, default=Path("study"), metavar="DIR", help="folder of page and key")
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

    # one word a picture, in an order that tells nothing
    each = 1 + len(names)
    words = [f"{i:05x}" for i in random.Random(args.seed).sample(range(16**5), len(stems) * each)]
    jobs, key = {}, {}  # by word: the picture's path; by a question's word: what the page must not know
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
    print(f"and {shown(args.out / 'key.json')}: keep it, it says whose picture is whose")


def refuse_other(path: Path, study: str):
    """UserError where `path` is the key of another study: its answers could be read no more."""
    try:
        same = not path.exists() or json.loads(path.read_text(encoding="utf-8"))["study"] == study
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if not same:
        raise UserError(f"{shown(path)} is the key of another study, which its answers need; choose another --out")


if __name__ == "__main__":
    run(main, "study.py")
