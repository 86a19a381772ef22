"""`python -m fastctr` is the fastctr command."""

import sys

from fastctr.cli import main

if __name__ == "__main__":
    sys.exit(main())
