"""One thread for every test: small networks run best so, and results do not depend on the machine's cores."""

import os
import tempfile

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("MPLBACKEND", "Agg")
# What commands note of the user's own modules stays with the tests.
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="tutelage-state-")
