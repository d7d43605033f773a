"""``python -m nnunetv2_missmod``: the command `missmod`."""

import sys

from nnunetv2_missmod.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
