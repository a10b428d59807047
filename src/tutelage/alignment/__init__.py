"""How one network is compared with another and aligned to it: taps, pairing, similarity, schedules.

Imports nothing else of Tutelage but errors.
"""
