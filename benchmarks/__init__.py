"""The benchmarks: `python benchmarks/NAME.py` and `python -m benchmarks.NAME` are the same."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # as for a script: they import each other by their plain names
