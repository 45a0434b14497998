"""The shapes as data, and the one measuring code: the checkout's, so that every commit is measured alike."""

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("measure", Path(__file__).parents[2] / "bnfast" / "_measure.py")
measure = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(measure)

RESNET50 = [  # at batch 32: each shape that a normalization of the network meets
    "32x64x112x112",
    "32x64x56x56",
    "32x128x56x56",
    "32x256x56x56",
    "32x128x28x28",
    "32x256x28x28",
    "32x512x28x28",
    "32x256x14x14",
    "32x512x14x14",
    "32x1024x14x14",
    "32x512x7x7",
    "32x2048x7x7",
]
OTHERS = [
    "8x16x8x8",  # small: the call, not the memory, decides
    "1x32x16x16",
    "256x1024",  # fully connected
    "2x32x16x64x64",  # 3-D
    "32x200x7x7",  # odd: short rows, C no power of two
    "64x200x1x1",
    "64x512x1x1",
    "32x3x224x224",
    "1x3x1024x1024",  # one image
    "64x128x16x16",  # samples a high power of 2 apart, which share few sets of a cache
    "256x512x4x4",
    "2x2048x4x4",  # few rows, and short
    "1x2048x7x7",
]
SHAPES = RESNET50 + OTHERS
TYPICAL = ["32x64x56x56", "32x512x7x7", "8x16x8x8"]  # long rows, short rows, small
TOKENS = ["8x197x768", "32x512x1024", "4096x64", "20000x12", "8x64"]  # transformers' (vision, language), short, small
MAPS = ["32x64x56x56", "32x256x56x56", "32x256x14x14", "32x512x7x7", "64x512x4x4", "8x64x8x8"]
MAIN = ["forward", "inference", "backward"]


def case(shape, layout="nchw", dtype="float32", threads=None):
    """The arguments of measure.Case; shape: sizes in the order NCHW, whatever the layout."""
    n, c, *rest = map(int, shape.split("x"))
    size, axis = ((n, c, *rest), 1) if layout == "nchw" else ((n, *rest, c), -1)
    return size, axis, dtype, threads or measure.bnfast.get_num_threads()
