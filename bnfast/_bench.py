"""What the command `bench` shows: a table of best times, and a chart of the fraction of the memory limit reached."""

from __future__ import annotations

from contextlib import ExitStack, closing
from itertools import product

from ._config import get_num_threads
from ._measure import PEERS, Contestant, in_turns, installed

PASSES = ("forward", "inference", "backward")


def run(shapes, axis, dtype, num_threads, seconds=0.5):
    """Print a table; returns {(shape, pass): {who: ms}}."""
    peers = [peer for peer in PEERS if installed(peer)]
    columns = ["bnfast", "limit", *peers]
    heads = "".join(f"{who:>10}" for who in [*columns, "of limit", "speed-up"])
    print(f"{'shape':<18}{'pass':<10}{heads}   ms, {dtype}, axis {axis}")
    threads = num_threads or get_num_threads()
    times = {}
    with ExitStack() as stack:
        contestants = [stack.enter_context(closing(Contestant(who))) for who in columns]
        for shape, name in product(shapes, PASSES):
            best = in_turns(contestants, (shape, axis, dtype, threads), name, seconds)
            ms = {who: 1e3 * t for who, t in zip(columns, best, strict=True)}
            label = "x".join(map(str, shape))
            times[label, name] = ms
            cells = "".join(f"{ms[who]:>10.3f}" for who in columns)
            of_limit, speed_up = ms["limit"] / ms["bnfast"], ms["NumPy"] / ms["bnfast"]
            print(f"{label:<18}{name:<10}{cells}{of_limit:>10.0%}{speed_up:>9.1f}x", flush=True)
    return times


def plot(times, picture):
    """Draw the fraction of the memory limit that each reached: a panel for a pass, a group of bars for a shape."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    shapes = list(dict.fromkeys(shape for shape, _ in times))
    whose = [who for who in next(iter(times.values())) if who != "limit"]
    width = 0.8 / len(whose)
    figure, axes = plt.subplots(
        len(PASSES), sharex=True, sharey=True, figsize=(3 + 1.3 * len(shapes), 7), layout="constrained"
    )
    for axis, name in zip(axes, PASSES, strict=True):
        for i, who in enumerate(whose):
            reached = [times[shape, name]["limit"] / times[shape, name][who] for shape in shapes]
            places = [place + (i + 0.5) * width - 0.4 for place in range(len(shapes))]
            bars = axis.bar(places, reached, width, label=who)
            axis.bar_label(bars, fmt="{:.0%}", fontsize=8)
        axis.axhline(1, color="black", linewidth=1, linestyle="--")
        axis.set_title(name, loc="left")
        axis.yaxis.set_major_formatter("{x:.0%}")
        axis.margins(y=0.15)
    axes[-1].set_xticks(range(len(shapes)), shapes)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper right", ncols=len(whose))
    figure.supylabel("of the memory limit: a copy that moves as many bytes")
    figure.savefig(picture, dpi=120)
    plt.close(figure)
    print(f"fraction of the memory limit: {picture}")
