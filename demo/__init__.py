"""The built-in demo: pictures generated from a seed (data.py, scenes.py) and measures of translations (measures.py).

    python -m demo                          generate dataset/demo
"""

from demo.data import DIRECTIONS, ROOT, ensure
from demo.measures import BARS, bars, measure, passes, report

__all__ = ["BARS", "DIRECTIONS", "ROOT", "bars", "ensure", "measure", "passes", "report"]
