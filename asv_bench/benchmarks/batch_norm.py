"""Every pass in both layouts; the arrays are made in setup, the results go where memory is there already."""

import numpy as np

import bnfast

# (N, C, H, W): large, in the cache, short rows, small.
SHAPES = ["32x256x56x56", "32x64x56x56", "32x512x7x7", "8x16x8x8"]


class Passes:
    params = [SHAPES, ["nchw", "nhwc"], ["float32", "float64"]]
    param_names = ["shape", "layout", "dtype"]

    def setup(self, shape, layout, dtype):
        n, c, h, w = map(int, shape.split("x"))
        rng = np.random.default_rng(0)
        size = (n, c, h, w) if layout == "nchw" else (n, h, w, c)
        self.x, self.dy = (rng.standard_normal(size, np.float32).astype(dtype) for _ in range(2))
        self.vectors = [np.full(c, v, dtype) for v in (0.2, 1.3, 1.1, 0.1)]  # mean, var, gamma, beta
        self.options = {"axis": 1 if layout == "nchw" else -1, "out": np.zeros_like(self.x)}
        self.moments = bnfast.moments(self.x, axis=self.options["axis"])

    def time_forward(self, shape, layout, dtype):
        bnfast.batch_norm(self.x, *self.vectors[2:], **self.options)

    def time_inference(self, shape, layout, dtype):
        bnfast.normalize(self.x, *self.vectors, **self.options)

    def time_backward(self, shape, layout, dtype):
        bnfast.batch_norm_backward(self.dy, self.x, self.moments, self.vectors[2], **self.options)
