"""Fetch a data set of the papers: python dataset/get.py NAME.  Its code is in images/data_sets.py."""

import sys
from pathlib import Path

# instead of this folder, so that it works from anywhere; and there is no __init__.py here, as `dataset` is a module
sys.path[0] = str(Path(__file__).resolve().parent.parent)

from images.data_sets import main  # noqa: E402
from utils import run  # noqa: E402

run(main, "get.py")
