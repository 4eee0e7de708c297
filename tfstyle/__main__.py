"""``python -m tfstyle`` is the command ``tfstyle``."""

import sys

from tfstyle.cli.main import main

sys.exit(main())
