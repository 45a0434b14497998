"""What a small call costs without Python: a loop inside the Cython consumer of tests/capi_consumer, built here."""

import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

from . import MAIN

CONSUMER = Path(__file__).parents[2] / "tests" / "capi_consumer"
OUTER, CHANNELS, INNER = 8, 16, 64  # the small shape, 8x16x8x8


class Embedded:
    params = [MAIN]
    param_names = ["pass"]
    unit = "seconds"

    def setup_cache(self):
        """The folder with the consumer; None where it cannot be built: no Cython or compiler, an older bnfast."""
        folder = Path.cwd() / "capi_consumer"
        shutil.copytree(CONSUMER, folder)
        build = subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=folder)
        return None if build.returncode else str(folder)

    def setup(self, folder, name):
        if folder is None:
            raise NotImplementedError("the consumer was not built")
        sys.path.insert(0, folder)
        import cython_consumer

        size = OUTER, CHANNELS, INNER
        x, dy, out = (np.random.default_rng(0).standard_normal(size, dtype=np.float32) for _ in range(3))
        gamma, beta, dgamma, dbeta = np.ones((4, CHANNELS), np.float32)
        mean, m2, var = np.zeros(CHANNELS), np.full(CHANNELS, OUTER * INNER * 1.0), np.ones(CHANNELS)
        more = {
            "forward": {"beta": beta, "m2": m2},
            "inference": {"beta": beta, "var": var},
            "backward": {"dy": dy, "m2": m2, "dgamma": dgamma, "dbeta": dbeta},
        }
        self.arrays = {"x": x, "out": out, "gamma": gamma, "mean": mean} | more[name]
        self.name = "normalize" if name == "inference" else name
        self.numbers = {"outer": OUTER, "channels": CHANNELS, "inner": INNER, "threads": 1}
        self.run = cython_consumer.run

    def track_call(self, folder, name, times=2000):
        """The best of many loops, one call."""
        best = float("inf")
        for _ in range(50):
            start = time.perf_counter()
            self.run(self.name, self.numbers, self.arrays, times)
            best = min(best, time.perf_counter() - start)
        return best / times
