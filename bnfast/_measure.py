"""The passes by bnfast and by its peers, the memory limit, and a clock that lets them take turns.

asv_bench/ loads this file by its path and runs it on older builds too: it uses nothing of bnfast but the public
functions, and no other file of it. Run as a program it is one contestant: see Contestant.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from itertools import pairwise

import numpy as np

import bnfast

# The arrays of x's size that a pass has to read and write, be it as good as can be.
ARRAYS_MOVED = {"forward": 2, "inference": 2, "backward": 3, "frozen backward": 3, "moments": 1}
PASSES = tuple(ARRAYS_MOVED)
PEERS = {"NumPy": "numpy", "PyTorch": "torch", "JAX": "jax"}  # and the module each needs
EPS = 1e-5
GROUPS = 32  # of a group norm
STREAM = 1 << 20  # bytes: the shortest copy whose stores go past the cache, in the process of the limit


def installed(peer):
    return importlib.util.find_spec(PEERS[peer]) is not None


class Case:
    """Arrays of one shape, and the passes on them by bnfast and by each peer, as calls without arguments.

    bnfast and PyTorch write into memory that is there already, but for PyTorch's backward, which cannot. NumPy is the
    formula in array operations, JAX the same formula compiled, PyTorch its own operators.
    """

    def __init__(self, shape, axis=1, dtype="float32", num_threads=None):
        self.axis, self.num_threads = axis % len(shape), num_threads or bnfast.get_num_threads()
        noise = np.random.default_rng(0).standard_normal((2, 1 << 16)).astype(dtype)
        self.x, self.dy = (np.resize(row, shape) for row in noise)  # repeats its values: quick to make
        channels = shape[self.axis]
        self.gamma, self.beta = np.full(channels, 1.1, dtype), np.full(channels, 0.1, dtype)
        self.moments = bnfast.moments(self.x, axis=self.axis)
        self.mean, self.var = self.moments.mean.astype(dtype), self.moments.var.astype(dtype)

    @cached_property
    def out(self):
        return np.full_like(self.x, 0)

    def relative(self, norm, name):
        """A pass of another norm by bnfast: layer and rms over the last axis. None: this build has not got it."""
        forward, backward = (getattr(bnfast, f"{norm}_norm{end}", None) for end in ("", "_backward"))
        if forward is None:
            return None
        options = {"num_threads": self.num_threads}
        points = norm in ("layer", "rms")
        count = self.x.shape[-1] if points else self.x.shape[self.axis]
        options |= {"axes": -1} if points else {"axis": self.axis}
        gamma, beta = np.full(count, 1.1, self.x.dtype), np.full(count, 0.1, self.x.dtype)
        given = ((self.x, GROUPS) if norm == "group" else (self.x,)) + ((gamma,) if norm == "rms" else (gamma, beta))
        moments = forward(*given, **options)[1]
        options |= {"eps": EPS, "out": self.out}
        return {
            "forward": lambda: forward(*given, **options),
            "backward": lambda: backward(self.dy, self.x, moments, gamma, **options),
        }[name]

    def fused(self, name, what):
        """A pass with a ReLU, with a residual and a ReLU, or under the mask of a padded batch."""
        if what == "mask":
            mask = np.full(self.x.shape[: self.axis] + self.x.shape[self.axis + 1 :], True)
            mask[..., mask.shape[-1] * 3 // 4 :] = False
            self.moments = bnfast.moments(self.x, axis=self.axis, mask=mask)
            return self.bnfast(name, mask=mask)
        options = {"activation": "relu"}
        if name in ("forward", "inference"):
            return self.bnfast(name, **options, **({"residual": self.dy} if what == "residual" else {}))
        return self.bnfast(name, **options, **({"y": self.x} if what == "residual" else {}), beta=self.beta)

    def bnfast(self, name, fresh=False, **options):
        x, dy, gamma, statistics = self.x, self.dy, self.gamma, (self.mean, self.var)
        options |= {"axis": self.axis, "num_threads": self.num_threads}
        if name == "moments":
            return lambda: bnfast.moments(x, **options)
        options |= {"eps": EPS, "out": None if fresh else self.out}
        return {
            "forward": lambda: bnfast.batch_norm(x, gamma, self.beta, **options),
            "inference": lambda: bnfast.normalize(x, *statistics, gamma, self.beta, **options),
            "backward": lambda: bnfast.batch_norm_backward(dy, x, self.moments, gamma, **options),
            "frozen backward": lambda: bnfast.normalize_backward(dy, x, *statistics, gamma, **options),
        }[name]

    def _formula(self, xp, name):
        """A function of (x, dy, gamma, beta, mean, var), the last four in a shape that broadcasts along x."""
        axes = tuple(i for i in range(self.x.ndim) if i != self.axis)
        count = self.x.size // self.x.shape[self.axis]

        def moments(x, *_):
            mean = x.mean(axes, keepdims=True)
            return mean, xp.square(x - mean).mean(axes, keepdims=True)

        def forward(x, dy, gamma, beta, *_):
            centered = x - x.mean(axes, keepdims=True)
            return centered * (gamma / xp.sqrt(xp.square(centered).mean(axes, keepdims=True) + EPS)) + beta

        def inference(x, dy, gamma, beta, mean, var):
            scale = gamma / xp.sqrt(var + EPS)
            return x * scale + (beta - mean * scale)

        def sums(x, dy, mean, inv):
            xhat = (x - mean) * inv
            return xhat, (dy * xhat).sum(axes, keepdims=True), dy.sum(axes, keepdims=True)

        def backward(x, dy, gamma, beta, mean, var):
            inv = 1 / xp.sqrt(var + EPS)
            xhat, dgamma, dbeta = sums(x, dy, mean, inv)
            return gamma * inv * (dy - dbeta / count - xhat * (dgamma / count)), dgamma, dbeta

        def frozen_backward(x, dy, gamma, beta, mean, var):
            inv = 1 / xp.sqrt(var + EPS)
            return dy * (gamma * inv), *sums(x, dy, mean, inv)[1:]

        return {
            "forward": forward,
            "inference": inference,
            "backward": backward,
            "frozen backward": frozen_backward,
            "moments": moments,
        }[name]

    @property
    def _arguments(self):
        view = [-1 if i == self.axis else 1 for i in range(self.x.ndim)]
        return self.x, self.dy, *(a.reshape(view) for a in (self.gamma, self.beta, self.mean, self.var))

    def numpy(self, name):
        formula, arguments = self._formula(np, name), self._arguments
        return lambda: formula(*arguments)

    def jax(self, name):
        import jax

        jax.config.update("jax_enable_x64", self.x.dtype == np.float64)
        formula = jax.jit(self._formula(jax.numpy, name))
        arguments = [jax.numpy.asarray(a) for a in self._arguments]
        return lambda: jax.block_until_ready(formula(*arguments))

    def pytorch(self, name):
        import torch

        torch.set_num_threads(self.num_threads)
        # A channel axis that is last in memory is still axis 1 for PyTorch.
        x, dy, out = (torch.from_numpy(np.moveaxis(a, self.axis, 1)) for a in (self.x, self.dy, self.out))
        gamma, beta, mean, var = map(torch.from_numpy, (self.gamma, self.beta, self.mean, self.var))
        running, saved = (mean.clone(), var.clone()), (mean, 1 / torch.sqrt(var + EPS))
        scratch = {"out": out, "save_mean": torch.empty_like(mean), "save_invstd": torch.empty_like(mean)}
        norm, backward = torch.ops.aten.native_batch_norm.out, torch.ops.aten.native_batch_norm_backward
        axes = [i for i in range(x.ndim) if i != 1]
        return {
            "forward": lambda: norm(x, gamma, beta, *running, True, 0.1, EPS, **scratch),
            "inference": lambda: norm(x, gamma, beta, *running, False, 0.1, EPS, **scratch),
            "backward": lambda: backward(dy, x, gamma, *running, *saved, True, EPS, [True] * 3),
            "frozen backward": lambda: backward(dy, x, gamma, *running, *saved, False, EPS, [True] * 3),
            "moments": lambda: torch.var_mean(x, axes, correction=0),
        }[name]

    def limit(self, name):
        """Moving as many bytes as the pass has to, half of them read and half written, in each way that may be best:
        np.copyto on one thread or on as many as the pass has, with stores that go past the cache or through it.
        """
        nbytes = ARRAYS_MOVED[name] * self.x.nbytes // 2
        source, room = np.full(nbytes, 1, np.uint8), np.full(nbytes + 4096, 0, np.uint8)
        # Half a page apart: to an address just above the source's, modulo 4096, some CPUs copy five times slower.
        apart = (source.ctypes.data + 2048 - room.ctypes.data) % 4096
        target = room[apart : apart + nbytes]
        pool = ThreadPoolExecutor(self.num_threads)

        def copy(pairs):
            for pair in pairs:
                np.copyto(*pair)

        def way(threads, piece):
            bounds = [nbytes * i // threads for i in range(threads + 1)]
            parts = [
                [(target[i:j], source[i:j]) for i, j in pairwise([*range(start, stop, piece), stop])]
                for start, stop in pairwise(bounds)
            ]

            def call():
                others = [pool.submit(copy, part) for part in parts[1:]]
                copy(parts[0])
                for other in others:
                    other.result()

            return call

        return [way(threads, piece) for threads in {1, self.num_threads} for piece in (nbytes, STREAM // 2)]


def best(call, seconds):
    """The best time, in seconds, of the calls made in so many seconds; of 2 at least."""
    times, start = [], time.perf_counter()
    end = start + seconds
    while len(times) < 2 or start < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


class Contestant:
    """bnfast, the limit or a peer in a process of its own, where no other's threads spin and no other's setting counts.

    The limit needs a setting: from which size on glibc copies with streaming stores is read when a process starts,
    and glibc's own choice may lie far above the size of the cache. Other C libraries copy as they will.
    """

    def __init__(self, who):
        self.who, env = who, dict(os.environ)
        if who == "limit":
            env["GLIBC_TUNABLES"] = f"glibc.cpu.x86_non_temporal_threshold={STREAM:#x}"
        self.process = subprocess.Popen(
            [sys.executable, "-P", __file__, who], env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def turn(self, case, name, seconds):
        """The best time of the pass in so many seconds; case: the arguments of Case."""
        print(json.dumps([case, name, seconds]), file=self.process.stdin, flush=True)
        best = self.process.stdout.readline()
        if not best:
            raise RuntimeError(f"{self.who} could not: {name}, {case}; it has said why")
        return float(best)

    def close(self):
        self.process.communicate()


def in_turns(contestants, case, name, seconds, rounds=5):
    """The best time of each in seconds; taking turns lets a busy moment of the machine meet all of them."""
    times = []
    for _ in range(rounds):
        for contestant in contestants:
            time.sleep(0.01)  # OpenMP's threads spin on for a while after their work: not into another's turn
            times.append(contestant.turn(case, name, seconds / rounds))
    return [min(times[i :: len(contestants)]) for i in range(len(contestants))]


def main(who):
    seen = None
    for line in sys.stdin:
        case, name, seconds = json.loads(line)
        if (case, name) != seen:
            seen = case, name
            calls = None  # frees the arrays of the last one
            calls = getattr(Case(*case), who.lower())(name)
            calls = calls if isinstance(calls, list) else [calls]
        print(min(best(call, seconds / len(calls)) for call in calls), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
