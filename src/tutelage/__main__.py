"""`python -m tutelage`: the same as the console script."""

import sys

from tutelage.cli.main import main

sys.exit(main())
