"""``python -m diffodesic`` is the command ``diffodesic``."""

import sys

from diffodesic.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
