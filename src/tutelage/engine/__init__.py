"""Engine: builds a run's objects from its configuration, fits them, resumes, selects on validation, tests once, launches ranks.

May import everything below `cli`. Only `build` knows how a configuration becomes objects.
"""
