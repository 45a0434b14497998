"""Every pass on several threads, and several Python threads at once: what `.ci/sanitize tsan` watches. No test by
itself, but results that differ from those of one thread end it too."""

import threading

import numpy as np

import bnfast

SHAPES = [
    ((16, 64, 28, 28), 1),  # whole channels
    ((1, 3, 512, 512), 1),  # channels shared by threads
    ((8, 7, 150, 150), 1),  # both
    ((16, 28, 28, 64), -1),
    ((64, 41, 43, 5), -1),  # folded rows and a rest
    ((4, 100_000), -1),  # few rows
    ((40, 64, 7, 7), 1),  # lanes; as one group, rows of small maps
]


def passes(x, dy, axis, threads):
    many = dict(axis=axis, num_threads=threads)
    y, m = bnfast.batch_norm(x, **many)
    yield y
    yield bnfast.batch_norm(x, residual=dy, activation="relu", **many)[0]
    yield bnfast.normalize(x, m.mean, m.var, **many)
    yield from bnfast.batch_norm_backward(dy, x, m, **many)
    yield from bnfast.batch_norm_backward(dy, x, m, activation="relu", y=y, **many)
    yield from bnfast.normalize_backward(dy, x, m.mean, m.var, **many)
    mask = np.arange(x.size // x.shape[axis]).reshape(np.delete(x.shape, axis)) % 3 > 0
    y, m = bnfast.batch_norm(x, mask=mask, **many)
    yield y
    yield from bnfast.batch_norm_backward(dy, x, m, mask=mask, **many)
    y, m = bnfast.layer_norm(x, num_threads=threads)
    yield y
    yield from bnfast.layer_norm_backward(dy, x, m, num_threads=threads)
    if x.ndim > 2:
        for groups in (x.shape[axis], 1):
            y, m = bnfast.group_norm(x, groups, **many)
            yield y
            yield from bnfast.group_norm_backward(dy, x, m, **many)


def work():
    for shape, axis in SHAPES:
        rng = np.random.default_rng(0)
        x, dy = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
        for one, many in zip(passes(x, dy, axis, 1), passes(x, dy, axis, 3), strict=True):
            assert one.tobytes() == many.tobytes(), (shape, axis)


if __name__ == "__main__":
    work()
    shared, x = bnfast.BatchNorm(64), np.ones(SHAPES[0][0], np.float32)
    several = [threading.Thread(target=work), *(threading.Thread(target=shared, args=(x,)) for _ in range(3))]
    for thread in several:
        thread.start()
    for thread in several:
        thread.join()
    print("no race found", bnfast.show_config("dicts")["runtime"])
