"""Generate the demo data set: python -m demo; with --measure or --area, measure translations of it."""

from pathlib import Path

import demo
from demo import area
from options import Parser
from utils import run

NAME = "python -m demo"


def main(argv: list[str] | None = None):
    parser = Parser(prog=NAME, description="Generate the demo data set.")
    parser.add_argument("--root", type=Path, default=demo.ROOT, help="folder to write it into (default: %(default)s)")
    parser.add_argument("--measure", type=Path, metavar="DIR", help="print the three measures of DIR/fakeB and "
                        "DIR/fakeA, as after a training")  # fmt: skip
    parser.add_argument("--area", type=Path, metavar="DIR", help="print the area of the animal in DIR/fakeB and "
                        "DIR/fakeA, against the truth")  # fmt: skip
    args = parser.parse_args(argv)
    demo.ensure(args.root)
    if args.measure:
        demo.report(args.measure, args.root)
    if args.area:
        area.report(args.area, args.root)


if __name__ == "__main__":
    run(main, NAME)
