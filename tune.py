"""Tune CNN-LSX: ``python tune.py --study decoy_mnist``."""

import sys

if __name__ == "__main__":
    if not {"-h", "--help"} & {*sys.argv}:  # the imports take seconds
        sys.stdout.write("lsx: starting\n")
        sys.stdout.flush()
    try:
        from lsx.study.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
