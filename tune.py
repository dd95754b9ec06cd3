"""Tune CNN-LSX: ``python tune.py --study decoy_mnist``."""

import sys

if __name__ == "__main__":
    if sys.stdout.isatty():  # the imports take seconds
        sys.stdout.write("lsx: starting\n")
        sys.stdout.flush()
    from lsx.study.cli import main

    sys.exit(main())
