"""The demonstrations: a small CNN learns handwritten digits, with and without batch norm, and in small batches.

Blocks of conv, norm, ReLU and pool, global average pool, linear; plain SGD with momentum. Convolutions are NumPy, by
unfolding the image into columns; every layer has forward(x), backward(dy) and its (parameter, gradient) pairs.
Needs scikit-learn (which ships the digits), matplotlib and tqdm: pip install "bnfast[demo]".
"""

from __future__ import annotations

import contextlib

import numpy as np

from .modules import BatchNorm, GroupNorm, InstanceNorm, LayerNorm

RATES = {"gentle": 0.02, "high": 0.5}
EPOCHS = 12

# In small batches the rate is this times batch size / 32, for every norm alike: the linear rule of Goyal et al. (2017),
# arXiv:1706.02677, as in Wu & He (2018), arXiv:1803.08494. With 4 blocks the last maps are 1x1, so that a mean of batch
# norm is there one of as many values as there are images; with means of 8 values and more it does well on these digits.
RATE_OF_32 = 0.05
SMALL = dict(batch_sizes=(2, 32), epochs=4, seeds=3, blocks=4)

# How each norm is made for maps of a shape (channels, height, width). A map of one value has no instance norm.
NORMS = {
    "batch": lambda shape: BatchNorm(shape[0]),
    "group": lambda shape: GroupNorm(4, shape[0]),
    "layer": LayerNorm,
    "instance": lambda shape: InstanceNorm(shape[0]) if shape[1:] != (1, 1) else None,
    "none": lambda shape: None,
}


class Conv:
    """3x3 convolution, same size, NCHW; y = sum over the 3x3 window of w * x + b."""

    def __init__(self, rng, inputs, outputs):
        self.w = (rng.standard_normal((outputs, inputs * 9)) * np.sqrt(2 / (inputs * 9))).astype(np.float32)
        self.b = np.zeros(outputs, np.float32)

    def forward(self, x):
        n, c, h, w = x.shape
        padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
        windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))  # n c h w 3 3
        self.columns = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * 9)
        self.shape = x.shape
        return np.ascontiguousarray((self.columns @ self.w.T + self.b).reshape(n, h, w, -1).transpose(0, 3, 1, 2))

    def backward(self, dy):
        n, c, h, w = self.shape
        dy = dy.transpose(0, 2, 3, 1).reshape(n * h * w, -1)
        self.dw, self.db = dy.T @ self.columns, dy.sum(0)
        columns = (dy @ self.w).reshape(n, h, w, c, 3, 3)
        dx = np.zeros((n, c, h + 2, w + 2), np.float32)
        for i in range(3):
            for j in range(3):
                dx[:, :, i : i + h, j : j + w] += columns[..., i, j].transpose(0, 3, 1, 2)
        return dx[:, :, 1:-1, 1:-1]

    def parameters(self):
        return [(self.w, self.dw), (self.b, self.db)]


class Norm:
    """One of NORMS as a layer of this network."""

    def __init__(self, norm):
        self.norm = norm

    def forward(self, x):
        return self.norm(x)

    def backward(self, dy):
        return self.norm.backward(dy)

    def parameters(self):
        return [(self.norm.gamma, self.norm.dgamma), (self.norm.beta, self.norm.dbeta)]


class Relu:
    def forward(self, x):
        self.mask = x > 0
        return x * self.mask

    def backward(self, dy):
        return dy * self.mask

    def parameters(self):
        return []


class MaxPool:
    """2x2, stride 2. A tie shares the gradient."""

    def forward(self, x):
        n, c, h, w = x.shape
        self.windows = x.reshape(n, c, h // 2, 2, w // 2, 2)
        y = self.windows.max((3, 5), keepdims=True)
        self.mask = self.windows == y
        return y[:, :, :, 0, :, 0]

    def backward(self, dy):
        share = dy[:, :, :, None, :, None] * self.mask / self.mask.sum((3, 5), keepdims=True, dtype=np.float32)
        n, c, h, _, w, _ = share.shape
        return share.reshape(n, c, 2 * h, 2 * w)

    def parameters(self):
        return []


class GlobalPoolLinear:
    """The mean of each map, then y = x @ w + b."""

    def __init__(self, rng, inputs, outputs):
        self.w = (rng.standard_normal((inputs, outputs)) / np.sqrt(inputs)).astype(np.float32)
        self.b = np.zeros(outputs, np.float32)

    def forward(self, x):
        self.shape, self.x = x.shape, x.mean((2, 3))
        return self.x @ self.w + self.b

    def backward(self, dy):
        self.dw, self.db = self.x.T @ dy, dy.sum(0)
        n, c, h, w = self.shape
        return np.broadcast_to((dy @ self.w.T / (h * w))[:, :, None, None], self.shape)

    def parameters(self):
        return [(self.w, self.dw), (self.b, self.db)]


class Network:
    """Blocks of conv, norm and ReLU, with a pool while there is something to pool: maps of 8x8, 4x4, 2x2, 1x1."""

    def __init__(self, rng, norm, blocks):
        self.layers, inputs, side = [], 1, 8
        for outputs in (16, *[32] * (blocks - 1)):
            made = NORMS[norm]((outputs, side, side))
            self.layers += [Conv(rng, inputs, outputs), *([Norm(made)] if made else []), Relu()]
            if side > 1:
                self.layers.append(MaxPool())
            inputs, side = outputs, max(side // 2, 1)
        self.layers.append(GlobalPoolLinear(rng, inputs, 10))

    def forward(self, x):
        for layer in self.layers:
            x = layer.forward(x)
        return x

    def backward(self, dy):
        for layer in reversed(self.layers):
            dy = layer.backward(dy)

    def training(self, mode):
        for layer in self.layers:
            if isinstance(layer, Norm):
                layer.norm.train(mode)

    def parameters(self):
        return [pair for layer in self.layers for pair in layer.parameters()]


def digits():
    """(train images, train labels, test images, test labels): 8x8, standardized, NCHW."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    images = ((data.images - data.images.mean()) / data.images.std()).astype(np.float32)[:, None]
    train_x, test_x, train_y, test_y = train_test_split(
        images, data.target, test_size=0.25, random_state=0, stratify=data.target
    )
    return train_x, train_y, test_x, test_y


def cross_entropy(logits, labels):
    """(mean loss, gradient by the logits)."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    gradient = np.exp(log_p)
    gradient[np.arange(len(labels)), labels] -= 1
    return float(-log_p[np.arange(len(labels)), labels].mean()), gradient / np.float32(len(labels))


def train(data, norm, rate, epochs, batch_size=64, blocks=2, seed=0, step=lambda: None):
    """(loss of every step, accuracy on the held-out digits). Evaluation uses the running averages."""
    train_x, train_y, test_x, test_y = data
    rng = np.random.default_rng(seed)
    network, velocity, losses = Network(rng, norm, blocks), None, []
    with np.errstate(over="ignore", invalid="ignore"):  # a diverging run is part of what is shown
        for _ in range(epochs):
            order = rng.permutation(len(train_x))
            for start in range(0, len(order) - batch_size + 1, batch_size):
                batch = order[start : start + batch_size]
                loss, gradient = cross_entropy(network.forward(train_x[batch]), train_y[batch])
                network.backward(gradient)
                pairs = network.parameters()
                velocity = velocity or [np.zeros_like(p) for p, _ in pairs]
                for (p, g), v in zip(pairs, velocity, strict=True):
                    v *= 0.9
                    v -= rate * g
                    p += v
                losses.append(loss)
                step()
        network.training(False)
        accuracy = float((network.forward(test_x).argmax(1) == test_y).mean())
    return losses, accuracy


def train_all(data, runs):
    """{key: the options of train} to {key: its result}, behind one bar."""
    from tqdm import tqdm

    steps = sum(len(data[0]) // options["batch_size"] * options["epochs"] for options in runs.values())
    results = {}
    with tqdm(total=steps, desc="training", unit="step") as bar:
        for key, options in runs.items():
            bar.set_postfix_str(
                f"batch size {options['batch_size']}, rate {options['rate']:.3g}, norm {options['norm']}"
            )
            results[key] = train(data, **options, step=bar.update)
    return results


@contextlib.contextmanager
def drawing(picture, panels=1):
    """The axes of a figure, which is then written to a file."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, panels, figsize=(10 if panels > 1 else 6, 4), sharey=True, layout="constrained")
    yield axes
    figure.savefig(picture, dpi=120)
    plt.close(figure)


def run(epochs, picture):
    """Train at two rates, with and without batch norm, print the table of accuracies, draw the loss curves."""
    data, norms = digits(), {"batch": "with batch norm", "none": "without"}
    results = train_all(
        data,
        {
            (name, norm): dict(norm=norm, rate=rate, epochs=epochs, batch_size=64)
            for name, rate in RATES.items()
            for norm in norms
        },
    )

    print(f"handwritten digits: {len(data[0])} to train on, {len(data[2])} held out, {epochs} epochs")
    print(f"{'learning rate':<20}" + "".join(f"{label:>18}" for label in norms.values()))
    for name, rate in RATES.items():
        print(f"{f'{name} ({rate})':<20}" + "".join(f"{results[name, norm][1]:>18.1%}" for norm in norms))

    with drawing(picture, len(RATES)) as axes:
        for axis, (name, rate) in zip(axes, RATES.items(), strict=True):
            for norm, label in norms.items():
                losses = np.array(results[name, norm][0])
                axis.plot(np.convolve(losses, np.ones(10) / 10, "valid"), label=label)
            axis.set(title=f"{name} learning rate, {rate}", xlabel="step", yscale="log")
            axis.legend()
        axes[0].set_ylabel("training loss (mean of 10 steps)")
    print(f"loss curves: {picture}")
    return {key: accuracy for key, (_, accuracy) in results.items()}


def run_small(norms, batch_sizes, epochs, picture, seeds=SMALL["seeds"]):
    """Train with each norm at each batch size, print the table of accuracies, draw the error over the batch size.

    Returns {(batch size, norm): the accuracies of the seeds}.
    """
    data = digits()
    runs = {
        (size, norm, seed): dict(
            norm=norm, rate=RATE_OF_32 * size / 32, epochs=epochs, batch_size=size, blocks=SMALL["blocks"], seed=seed
        )
        for size in batch_sizes
        for norm in norms
        for seed in range(seeds)
    }
    results = train_all(data, runs)
    accuracy = {
        (size, norm): [results[size, norm, seed][1] for seed in range(seeds)] for size in batch_sizes for norm in norms
    }

    print(
        f"handwritten digits: {len(data[0])} to train on, {len(data[2])} held out, {epochs} epochs\n"
        f"mean of {seeds} seeds, learning rate {RATE_OF_32} * batch size / 32 for every norm"
    )
    print(f"{'batch size':<12}" + "".join(f"{norm:>10}" for norm in norms))
    for size in batch_sizes:
        print(f"{size:<12}" + "".join(f"{np.mean(accuracy[size, norm]):>10.1%}" for norm in norms))

    with drawing(picture) as axis:
        for norm in norms:
            error = 100 - 100 * np.array([accuracy[size, norm] for size in batch_sizes])
            mean = error.mean(1)
            spread = [mean - error.min(1), error.max(1) - mean]
            axis.errorbar(batch_sizes, mean, spread, marker="o", capsize=3, label=norm)
        axis.set_xscale("log", base=2)
        axis.set(xlabel="batch size", ylabel=f"held-out error, % (mean and range of {seeds} seeds)", ylim=(0, None))
        axis.set_xticks(batch_sizes, [str(size) for size in batch_sizes])
        axis.legend()
    print(f"error over batch size: {picture}")
    return accuracy
