"""From runs to tables and figures: mean, spread, n, gaps shown as gaps, published numbers and a verdict.

Imports `runs` and `errors` only; numpy, scipy and matplotlib come inside functions, torch never.
"""
