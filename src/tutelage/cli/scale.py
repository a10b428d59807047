"""`tutelage scale`: predict how much data a network needs to learn a target, measure it, and hold one against the other."""

from __future__ import annotations

from tutelage.cli.reader import Given
from tutelage.scaling.scale_request import read


def run(given: Given) -> int:
    """Run the command; return its exit code."""
    request = read(given.verb, given.names, given.flags, given.options, given.settings)
    if given.verb == "predict":
        from tutelage.scaling.predict_command import run as do
    else:
        from tutelage.scaling.measure_command import run as do
    return do(request)
