"""``python -m lsx``."""

import sys

from lsx.cli import main

sys.exit(main())
