"""Tune CNN-LSX: ``python tune.py --study decoy_mnist``."""

import sys

LOOKS = ("list", "show", "best", "rerun", "report")

if __name__ == "__main__":
    if not {"-h", "--help"} & {*sys.argv}:  # the imports take seconds
        # What a look prints may be read by a program: it starts in silence there.
        if not {*sys.argv[1:2]} & {*LOOKS}:
            sys.stdout.write("lsx: starting\n")
            sys.stdout.flush()
        elif sys.stderr.isatty():
            sys.stderr.write("lsx: reading the studies\n")
    try:
        from lsx.study.cli import main

        status = main()
    except KeyboardInterrupt:
        status = 130
    sys.exit(status)
