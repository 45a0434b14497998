"""The command line: python -m bnfast [info | example | train | bench]; all of them without an argument."""

from __future__ import annotations

import argparse
import importlib.util
import math
import os
import sys

import numpy as np

from . import BatchNorm, _digits, show_config
from . import _geometry as geometry

TRAIN_NEEDS = {"sklearn": "scikit-learn", "matplotlib": "matplotlib", "tqdm": "tqdm"}
PLOT_NEEDS = {"matplotlib": "matplotlib"}
PICTURES = ".png", ".svg", ".pdf"

# The same numbers in both layouts: two channels, means 3 and 7, variance 1.5.
EXAMPLE_NHWC = [[[[1, 5], [2, 6]], [[3, 7], [4, 8]]], [[[2, 6], [3, 7]], [[4, 8], [5, 9]]]]
EXAMPLE_NCHW = [[[[1, 2], [3, 4]], [[5, 6], [7, 8]]], [[[2, 3], [4, 5]], [[6, 7], [8, 9]]]]


def info(_args):
    show_config()
    return 0


def example(_args):
    for title, values, axis in (("channels last", EXAMPLE_NHWC, -1), ("channels first", EXAMPLE_NCHW, 1)):
        x = np.array(values, np.float32)
        bn = BatchNorm(2, axis=axis)
        y = np.moveaxis(bn(x), axis, 1)  # sample, channel, height, width: to print both alike
        print(f"{title}, shape {x.shape}, gamma 1, beta 0, eps {bn.eps}")
        print(f"  running mean after one step      {bn.running_mean.round(6)}")
        print(f"  running variance after one step  {bn.running_var.round(6)}")
        for sample in range(2):
            for channel in range(2):
                print(f"  sample {sample}, channel {channel}   {y[sample, channel].ravel().round(3)}")
    return 0


def lacks(what, needs):
    """Say which packages are missing; needs: {module: package}."""
    missing = [package for module, package in needs.items() if importlib.util.find_spec(module) is None]
    if missing:
        print(f'{what} needs {", ".join(missing)}; install with: pip install "bnfast[demo]"', file=sys.stderr)
    return bool(missing)


def train(args):
    if lacks("train", TRAIN_NEEDS):
        return 1
    if args.batch_size or args.norm:
        small = _digits.SMALL
        norms = list(dict.fromkeys(args.norm or _digits.NORMS))
        sizes = sorted(set(args.batch_size or small["batch_sizes"]))
        _digits.run_small(norms, sizes, args.epochs or small["epochs"], args.picture)
    else:
        _digits.run(args.epochs or _digits.EPOCHS, args.picture)
    return 0


def bench(args):
    if args.plot and lacks("bench --plot", PLOT_NEEDS):
        return 1
    from . import _bench

    try:
        for dims in args.shapes:
            outer, _, inner = geometry.view(dims, args.axis)
            if outer * inner < 2:
                raise ValueError(f"shapes: got one value a channel in {dims}, wants at least 2")
        times = _bench.run(args.shapes, args.axis, args.dtype, args.threads, args.seconds)
    except (ValueError, RuntimeError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    if args.plot:
        _bench.plot(times, args.plot)
    return 0


def everything(args):
    status = 0
    for title, part in (("machine", info), ("two small examples", example), ("digits", train), ("speed", bench)):
        print(f"\n== {title} ==", flush=True)
        status |= part(args)
    return status


def shape(text):
    try:
        dims = tuple(int(n) for n in text.split("x"))
    except ValueError:
        dims = ()
    if len(dims) < 2 or min(dims) < 1:
        raise argparse.ArgumentTypeError(f"got {text!r}, wants sizes such as 32x64x56x56")
    return dims


def positive(kind, most=math.inf):
    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            value = 0
        if not 0 < value <= most:
            raise argparse.ArgumentTypeError(
                f"got {text!r}, wants a number above 0" + f" and up to {most}" * (most < math.inf)
            )
        return value

    return parse


def several(parse):
    """Of an option that takes a list with commas."""
    return lambda text: [parse(word) for word in text.split(",")]


def norm(text):
    if text not in _digits.NORMS:
        raise argparse.ArgumentTypeError(f"got {text!r}, wants some of {','.join(_digits.NORMS)}")
    return text


def picture(text):
    if not os.path.isdir(os.path.dirname(text) or "."):
        raise argparse.ArgumentTypeError(f"got {text!r}, wants a file in a folder that exists")
    if os.path.splitext(text)[1] not in PICTURES:
        raise argparse.ArgumentTypeError(f"got {text!r}, wants a file that ends with {', '.join(PICTURES)}")
    return text


def batch_size(text):
    if not (text.isdecimal() and 2 <= int(text) <= 1024):
        raise argparse.ArgumentTypeError(f"got {text!r}, wants whole numbers from 2 to 1024, such as 2,32")
    return int(text)


class Help(argparse.ArgumentDefaultsHelpFormatter):
    """Tells the defaults that there are."""

    def _get_help_string(self, action):
        return action.help if action.default is None else super()._get_help_string(action)


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m bnfast", description=__doc__)
    commands = parser.add_subparsers(metavar="command")
    add = {}
    for function, text in (
        (info, "what the library runs on"),
        (example, "two small arrays, both layouts"),
        (train, "a small CNN on handwritten digits: with and without batch normalization, or by several norms"),
        (bench, "time forward, inference and backward beside the memory limit and the peers that are installed"),
    ):
        add[function] = commands.add_parser(function.__name__, help=text, description=text, formatter_class=Help)
        add[function].set_defaults(function=function)

    options = add[train]
    options.add_argument(
        "--epochs",
        type=positive(int),
        help=f"passes over the digits (absent: {_digits.EPOCHS}; {_digits.SMALL['epochs']} in small batches)",
    )
    options.add_argument(
        "--batch-size", type=several(batch_size), action="extend", metavar="N[,N]", help="such as 2,32: small batches"
    )
    options.add_argument(
        "--norm",
        type=several(norm),
        action="extend",
        metavar="NORM[,NORM]",
        help=f"of {','.join(_digits.NORMS)} (absent: all)",
    )
    options.add_argument("--picture", type=picture, default="bnfast-digits.png", help="where the plot goes")
    options = add[bench]
    options.add_argument("shapes", nargs="*", type=shape, default=[(32, 64, 56, 56)], help="such as 32x64x56x56")
    options.add_argument("--axis", type=int, default=1, help="the channel axis: 1 is NCHW, -1 is NHWC")
    options.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    options.add_argument("--threads", type=positive(int, geometry.MOST_THREADS), help="absent: all that are granted")
    options.add_argument("--seconds", type=positive(float), default=0.5, help="for each shape, pass and contestant")
    options.add_argument(
        "--plot", type=picture, metavar="FILE.png", help="draw the fraction of the limit that each reaches"
    )

    everything_defaults = {**vars(add[train].parse_args([])), **vars(add[bench].parse_args([]))}
    parser.set_defaults(**{**everything_defaults, "function": everything})
    args = parser.parse_args(argv)
    return args.function(args)


if __name__ == "__main__":
    sys.exit(main())
