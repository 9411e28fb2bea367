"""`python -m hbnn_larq.training` is the `hbnn` command."""

import sys

from hbnn_larq.training.cli import main

if __name__ == "__main__":
    sys.exit(main())
