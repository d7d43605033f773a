import os
import sys
from pathlib import Path

# Helpers such as small_plans.py stand beside the tests; spawned workers find them through PYTHONPATH.
sys.path.insert(0, str(Path(__file__).parent))
os.environ.setdefault("nnUNet_n_proc_DA", "1")
os.environ.setdefault("nnUNet_def_n_proc", "1")
