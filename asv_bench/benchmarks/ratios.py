"""Figures that mean the same on any machine: bnfast and another, in turns within one call. More is better."""

from . import MAIN, TYPICAL, case, measure


class _Against:
    contestants = ()  # teardown is called after a setup that skips, too

    def setup(self, shape, name, other="limit"):
        if other != "limit" and not measure.installed(other):
            raise NotImplementedError(f"{other} is not installed here")
        self.contestants = [measure.Contestant(who) for who in ("bnfast", other)]

    def teardown(self, *_):
        for contestant in self.contestants:
            contestant.close()

    def ratio(self, shape, name):
        ours, theirs = measure.in_turns(self.contestants, case(shape), name, seconds=0.2)
        return theirs / ours


class Limit(_Against):
    """The memory limit is a copy that moves as many bytes: see measure.Case.limit."""

    params = [TYPICAL, MAIN]
    param_names = ["shape", "pass"]
    unit = "of the limit"

    def track_fraction(self, shape, name):
        return self.ratio(shape, name)


class SpeedUp(_Against):
    params = [TYPICAL, MAIN, ["NumPy", "PyTorch"]]
    param_names = ["shape", "pass", "over"]
    unit = "times as fast"

    def track_over(self, shape, name, over):
        return self.ratio(shape, name)
