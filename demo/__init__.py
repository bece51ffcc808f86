"""The built-in demo: data drawn from a seed (data.py, scenes.py), and how well it is translated (measures.py).

    python -m demo                          draw dataset/demo
"""

from demo.data import DIRECTIONS, ROOT, ensure
from demo.measures import BARS, bars, measure, passes, report

__all__ = ["BARS", "DIRECTIONS", "ROOT", "bars", "ensure", "measure", "passes", "report"]
