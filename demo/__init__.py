"""The built-in demo: pictures generated from a seed (data.py, scenes.py) and measures of translations (measures.py).

    python -m demo                          generate dataset/demo
    python -m demo --measure results/demo   measure its translations again
"""

from demo.data import DIRECTIONS, ROOT, ensure
from demo.measures import BARS, bars, counterparts, measure, passes, report

__all__ = ["BARS", "DIRECTIONS", "ROOT", "bars", "counterparts", "ensure", "measure", "passes", "report"]
