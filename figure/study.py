"""A user study of which method's translations people prefer: a page of questions, and a key to evaluate the answers.

    python figure/study.py --input dataset/cat2dog/testA NICE-GAN=results/cat2dog/fakeB CycleGAN=../cyclegan/fakeB
    python figure/study_table.py study answers-*.json

The first command writes study/page, to hand out, and study/key.json, to keep: the page contains neither the methods'
names nor which picture belongs to which method.  It shows each input with all translations in random order, keeps the
choices in the browser, and at the end saves them as a file.  study_table.py makes a table of any number of such files.

The names of the pictures and of the study are secret randomness: only key.json links them to methods, and nothing in
the page is computed from the assignment.  The command, repeated with the same --out, takes them from key.json.
"""

import json
import re
import secrets
from pathlib import Path

from command_line import UserError, at_once, bounded, method, need_folder, parser, run


def parse_args(argv=None):
    options = parser(__doc__, figure=False)
    add = options.add_argument
    add("methods", nargs="+", metavar="METHOD=DIR", help="a method's name and its folder of pictures")
    add("--input", type=Path, required=True, metavar="DIR", help="folder of the input pictures")
    add("--questions", type=bounded(int, 1), default=50, help="maximum number of inputs, evenly spread over the folder")
    add("--question", help="text of the question (default: it asks for realism and likeness, with the names of the "
        "domains if --input is testA or testB of a data set named like cat2dog)")  # fmt: skip
    add("--title", default="Which picture is better?", help="title of the page, which participants see")
    add("--size", type=bounded(int, 16), default=256, help="longest side of all pictures in pixels; the answers get "
        "the size of their input, so that sizes tell nothing")  # fmt: skip
    add("--out", type=Path, default=Path("study"), metavar="DIR", help="folder of page and key")
    args = options.parse_args(argv)
    for folder in (args.input, *(method(text)[1] for text in args.methods)):
        need_folder(folder)
    return args


if __name__ == "__main__":  # before torch is imported
    at_once("study.py", parse_args)

import compare
import webpage
from PIL import Image

from images import maker
from images.decode import read_image
from utils import atomic, parse_json, shown, text_of

QUESTION = "Which of these looks most real, and most like the picture above turned into it?"
NAMED = "Which looks most like a real {}, and most like this {} turned into one?"
SECRET = 32  # hexadecimal digits of a study's name


def main(argv=None):
    args = parse_args(argv)
    methods = [method(text) for text in args.methods]
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

    study, key = words(args.out / "key.json", stems, names)
    jobs = {}  # {word: (path of the picture, path of the question's input)}
    for word, entry in key.items():
        stem = Path(entry["input"])
        jobs[word] = inputs[stem], inputs[stem]
        jobs |= {w: (found[name][stem], inputs[stem]) for w, name in entry["answers"].items()}
    question = args.question or question_of(args.input)

    with webpage.folder(args.out / "page") as page:

        def write(word):
            picture, beside = (read_image(path) for path in jobs[word])
            size = [max(1, round(side * args.size / max(beside.size))) for side in beside.size]
            return word, webpage.save(picture.resize(size, Image.Resampling.BICUBIC), page, word)

        questions = [{"id": word, "answers": sorted(key[word]["answers"])} for word in sorted(key)]
        pictures = dict(webpage.each(write, sorted(jobs), "pictures"))
        texts = {"title": args.title, "question": question}
        webpage.write(page, "study", {"study": study, **texts, "questions": questions, "pictures": pictures})
        with atomic(args.out / "key.json") as temporary:
            made_by = {name: maker.read(folder) for name, folder in methods}
            content = {"study": study, "methods": names, "made": made_by, "questions": key}
            temporary.write_text(json.dumps(content, indent=1), "utf-8")
    print("".join(f"{name}: {text}\n" for name, folder in methods for text in maker.lines(folder)), end="")
    if not args.question:
        print(f"the page asks {shown(question)!r}; --question changes it")
    print(f"and {shown(args.out / 'key.json')}: keep it, it tells which picture belongs to which method")


def question_of(folder: Path) -> str:
    """The question about translations of a folder's pictures: for cat2dog/testA, of cats into dogs."""
    parts = Path(folder).absolute().parts[-2:]
    match = re.fullmatch(r"([^\W\d_]+)2([^\W\d_]+)/test([AB])", "/".join(parts))
    if not match:
        return QUESTION
    source, target = match.group(1, 2) if match[3] == "A" else match.group(2, 1)
    return NAMED.format(target, source)


def words(path: Path, stems: list[Path], names: list[str]) -> tuple[str, dict[str, dict]]:
    """The study's name, and for each question's word its input and {word: method}: new, or as the key in `path` says.

    UserError: the key is of another study, whose answers need it.
    """
    wanted = [(stem.as_posix(), sorted(names)) for stem in stems]
    if not path.exists():
        each = 1 + len(names)
        chosen = [f"{i:010x}" for i in secrets.SystemRandom().sample(range(16**10), len(stems) * each)]
        key = {}
        for stem in stems:
            word, *others = (chosen.pop() for _ in range(each))
            key[word] = {"input": stem.as_posix(), "answers": dict(zip(others, names, strict=True))}
        return secrets.token_hex(SECRET // 2), key
    try:
        found = parse_json(text_of(path))
        study, key = found["study"], found["questions"]
        asked = sorted((entry["input"], sorted(entry["answers"].values())) for entry in key.values())
        # shorter names are of former versions, whose words a participant can compute
        same = len(study) == SECRET and asked == sorted(wanted)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        same = False
    if not same:
        raise UserError(f"{shown(path)} is the key of another study, which its answers need; choose another --out")
    return study, key


if __name__ == "__main__":
    run(main, "study.py")
