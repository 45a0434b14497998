"""Time: every shape; layouts and dtypes, what is fused, then threads, on a few; the other norms; the import. Results
go to memory that is there."""

from . import MAIN, MAPS, SHAPES, TOKENS, TYPICAL, case, measure


class _Pass:
    def time_pass(self, *_):
        self.call()


class Shapes(_Pass):
    """NCHW, float32, all threads."""

    params = [SHAPES, MAIN]
    param_names = ["shape", "pass"]

    def setup(self, shape, name):
        self.call = measure.Case(*case(shape)).bnfast(name)


class Layouts(_Pass):
    params = [TYPICAL[:2], list(measure.PASSES), ["nchw", "nhwc"], ["float16", "float32", "float64"]]
    param_names = ["shape", "pass", "layout", "dtype"]

    def setup(self, shape, name, layout, dtype):
        try:
            self.call = measure.Case(*case(shape, layout, dtype)).bnfast(name)
        except TypeError as error:
            raise NotImplementedError(f"this build has no {dtype}") from error


class Fused(_Pass):
    params = [TYPICAL[:2], MAIN, ["nchw", "nhwc"], ["relu", "residual", "mask"]]
    param_names = ["shape", "pass", "layout", "with"]

    def setup(self, shape, name, layout, what):
        self.call = measure.Case(*case(shape, layout)).fused(name, what)


class Threads(_Pass):
    params = [TYPICAL[:1], MAIN, ["nchw", "nhwc"], [1, 2, 4, 8]]
    param_names = ["shape", "pass", "layout", "threads"]

    def setup(self, shape, name, layout, threads):
        if threads > measure.bnfast.get_num_threads():
            raise NotImplementedError("more threads than this machine grants")
        self.call = measure.Case(*case(shape, layout, threads=threads)).bnfast(name)


class _Relative(_Pass):
    def setup(self, norm, shape, name, layout="nchw"):
        self.call = measure.Case(*case(shape, layout)).relative(norm, name)
        if self.call is None:
            raise NotImplementedError(f"this build has no {norm} norm")


class Tokens(_Relative):
    params = [["layer", "rms"], TOKENS, ["forward", "backward"]]
    param_names = ["norm", "shape", "pass"]


class Maps(_Relative):
    params = [["group", "instance"], MAPS, ["forward", "backward"], ["nchw", "nhwc"]]
    param_names = ["norm", "shape", "pass", "layout"]


def timeraw_import():
    return "import bnfast", "import numpy"
