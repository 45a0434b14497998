"""The demonstration: a small CNN learns handwritten digits, with and without batch normalization.

Conv-BN-ReLU-Pool twice, global average pool, linear; plain SGD with momentum. Convolutions are NumPy, by unfolding
the image into columns; every layer has forward(x) and backward(dy), and lists its (parameter, gradient) pairs.
Needs scikit-learn (which ships the digits), matplotlib and tqdm: pip install "bnfast[demo]".
"""

from __future__ import annotations

import numpy as np

from .modules import BatchNorm

RATES = {"gentle": 0.02, "high": 0.5}


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
    """BatchNorm as a layer of this network."""

    def __init__(self, channels):
        self.norm = BatchNorm(channels)

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
    def __init__(self, rng, normalized, width=16):
        def block(inputs, outputs):
            norm = [Norm(outputs)] if normalized else []
            return [Conv(rng, inputs, outputs), *norm, Relu(), MaxPool()]

        self.layers = [*block(1, width), *block(width, 2 * width), GlobalPoolLinear(rng, 2 * width, 10)]

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


def train(data, normalized, rate, epochs, batch_size=64, seed=0, step=lambda: None):
    """(loss of every step, accuracy on the held-out digits). Evaluation uses the running averages."""
    train_x, train_y, test_x, test_y = data
    rng = np.random.default_rng(seed)
    network, velocity, losses = Network(rng, normalized), None, []
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


def run(epochs, picture):
    """Train the four networks, print the table of accuracies, draw the loss curves."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from tqdm import tqdm

    data = digits()
    runs = [(name, rate, normalized) for name, rate in RATES.items() for normalized in (True, False)]
    steps = len(data[0]) // 64 * epochs
    results = {}
    with tqdm(total=steps * len(runs), desc="training", unit="step") as bar:
        for name, rate, normalized in runs:
            bar.set_postfix_str(f"rate {rate}, {'with' if normalized else 'without'} batch norm")
            results[name, normalized] = train(data, normalized, rate, epochs, step=bar.update)

    print(f"handwritten digits: {len(data[0])} to train on, {len(data[2])} held out, {epochs} epochs")
    print(f"{'learning rate':<20}{'with batch norm':>18}{'without':>18}")
    for name, rate in RATES.items():
        row = [f"{results[name, normalized][1]:.1%}" for normalized in (True, False)]
        print(f"{f'{name} ({rate})':<20}{row[0]:>18}{row[1]:>18}")

    figure, axes = plt.subplots(1, len(RATES), figsize=(10, 4), sharey=True, layout="constrained")
    for axis, (name, rate) in zip(axes, RATES.items(), strict=True):
        for normalized, label in ((True, "with batch norm"), (False, "without")):
            losses = np.array(results[name, normalized][0])
            axis.plot(np.convolve(losses, np.ones(10) / 10, "valid"), label=label)
        axis.set(title=f"{name} learning rate, {rate}", xlabel="step", yscale="log")
        axis.legend()
    axes[0].set_ylabel("training loss (mean of 10 steps)")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    print(f"loss curves: {picture}")
    return {key: accuracy for key, (_, accuracy) in results.items()}
