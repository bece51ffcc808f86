"""Generate the demo data set: python -m demo."""

from pathlib import Path

import demo
from options import Parser
from utils import run

NAME = "python -m demo"


def main(argv: list[str] | None = None):
    parser = Parser(prog=NAME, description="Generate the demo data set.")
    parser.add_argument("--root", type=Path, default=demo.ROOT, help="folder to write it into (default: %(default)s)")
    demo.ensure(parser.parse_args(argv).root)


if __name__ == "__main__":
    run(main, NAME)
