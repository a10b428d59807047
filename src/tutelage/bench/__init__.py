"""Speed as ratios: ours over a floor or a reference, measured in turn in one process.

May import everything; nothing imports it.
"""
