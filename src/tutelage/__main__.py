"""`python -m tutelage`: the same as the console script."""

from tutelage.cli.main import entry

entry()
