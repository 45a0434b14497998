"""Memory: the peak of a pass that makes its output, and what a pass takes beyond its arrays."""

import resource
import sys

import numpy as np

from . import MAIN, TYPICAL, case, measure


class _Memory:
    params = [TYPICAL[:1], MAIN, ["nchw", "nhwc"]]
    param_names = ["shape", "pass", "layout"]


class Fresh(_Memory):
    def setup(self, shape, name, layout):
        self.call = measure.Case(*case(shape, layout)).bnfast(name, fresh=True)

    def peakmem_pass(self, *_):
        self.call()


class Beyond(_Memory):
    """How far the peak rises in a pass whose arrays are all there: its partial statistics."""

    unit = "bytes"

    def setup(self, shape, name, layout):
        self.call = measure.Case(*case(shape, layout)).bnfast(name)
        measure.Case(*case("8x64x28x28", layout)).bnfast(name)()  # the threads and the code are there too

    def track_peak(self, *_):
        ballast, before = [], peak_bytes()
        while peak_bytes() == before:  # nothing may hide in what setup had and gave back
            ballast.append(np.ones(1 << 11))
        before = peak_bytes()
        self.call()
        return peak_bytes() - before


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
