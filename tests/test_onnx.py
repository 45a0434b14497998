"""ONNX's conformance tests of the operators that bnfast has, by a small backend that maps an operator to a call.

Conventions of ONNX, and what is made of them here:

- BatchNormalization: `momentum` weighs the old value, and the running variance is that of the population: BatchNorm's
  momentum as it is, with unbiased=False. Training is `training_mode`, in the oldest models `is_test` = 0.
- GroupNormalization: scale and bias are per channel; before opset 21 per group.
- LayerNormalization, RMSNormalization: over `axis` and all axes after it. The optional outputs Mean and InvStdDev keep
  the axes, of length 1; they are made from the moments.
- Epsilon is inside the root, and the variance that normalizes is the biased one, in all of them.
"""

import importlib
import pkgutil
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.loader import load_model_tests
from onnx.numpy_helper import to_array

import bnfast


def batch_normalization(opset, x, gamma, beta, mean, var, *, epsilon=1e-5, momentum=0.9, **mode):
    bn = bnfast.BatchNorm(x.shape[1], eps=epsilon, momentum=momentum, unbiased=False, dtype=x.dtype)
    bn.load_state_dict(dict(gamma=gamma, beta=beta, running_mean=mean, running_var=var, num_batches_tracked=0))
    bn.train(mode.get("training_mode", 0) if opset > 6 else not mode.get("is_test", 0))
    return bn(x), bn.running_mean, bn.running_var


def instance_normalization(opset, x, gamma, beta, *, epsilon=1e-5):
    return bnfast.instance_norm(x, gamma, beta, eps=epsilon)[:1]


def group_normalization(opset, x, gamma, beta, *, num_groups, epsilon=1e-5, stash_type=1):
    if opset < 21:
        gamma, beta = (np.repeat(vector, x.shape[1] // num_groups) for vector in (gamma, beta))
    return bnfast.group_norm(x, num_groups, gamma, beta, eps=epsilon)[:1]


def layer_normalization(opset, x, gamma, beta=None, *, axis=-1, epsilon=1e-5, stash_type=1):
    first = axis % x.ndim
    y, moments = bnfast.layer_norm(x, gamma, beta, axes=tuple(range(first, x.ndim)), eps=epsilon)
    kept = (*x.shape[:first], *[1] * (x.ndim - first))
    return y, moments.mean.reshape(kept), 1 / np.sqrt(moments.var.reshape(kept) + epsilon)


def rms_normalization(opset, x, gamma, *, axis=-1, epsilon=1e-5, stash_type=1):
    return bnfast.rms_norm(x, gamma, axes=tuple(range(axis % x.ndim, x.ndim)), eps=epsilon)[:1]


OPERATORS = {
    "BatchNormalization": batch_normalization,
    "InstanceNormalization": instance_normalization,
    "GroupNormalization": group_normalization,
    "LayerNormalization": layer_normalization,
    "RMSNormalization": rms_normalization,
}
# (kind, operator): how many cases onnx 1.23 has; a later one may have more.
KNOWN = {
    ("node", "BatchNormalization"): 4,
    ("node", "InstanceNormalization"): 2,
    ("node", "GroupNormalization"): 2,
    ("node", "LayerNormalization"): 19,
    ("node", "RMSNormalization"): 19,
    ("pytorch-converted", "BatchNormalization"): 5,
    ("pytorch-operator", "InstanceNormalization"): 1,
}


def read(path):
    return to_array(onnx.load_tensor(path))


def files(folder, what):
    return [read(folder / f"{what}_{i}.pb") for i in range(len(list(folder.glob(f"{what}_*.pb"))))]


def cases():
    """(kind, name, model, [(inputs, outputs)], rtol, atol) of every model that is one of our operators."""
    with warnings.catch_warnings():  # of the code that makes the node tests, when it is imported
        warnings.simplefilter("ignore")
        for module in pkgutil.iter_modules(node_cases.__path__):
            if "norm" in module.name:
                importlib.import_module(f"{node_cases.__name__}.{module.name}")
    found = [
        ("node", case.name, case.model, [tuple(map(list, data)) for data in case.data_sets], case.rtol, case.atol)
        for case in node_cases._NodeTestCases
    ]
    for kind in ("pytorch-converted", "pytorch-operator"):
        for case in load_model_tests(kind=kind):
            folder = Path(case.model_dir)
            data = [(files(data, "input"), files(data, "output")) for data in sorted(folder.glob("test_data_set_*"))]
            found.append((kind, case.name, onnx.load(folder / "model.onnx"), data, case.rtol, case.atol))
    return [case for case in found if operator(case)]


def operator(case):
    """The one operator of ours that a model consists of, or None."""
    operators = [node.op_type for node in case[2].graph.node]
    return operators[0] if len(operators) == 1 and operators[0] in OPERATORS else None


CASES = sorted(cases(), key=lambda case: case[:2])


def test_the_cases_are_all_there():
    found = Counter((case[0], operator(case)) for case in CASES)
    assert {which: min(found[which], count) for which, count in KNOWN.items()} == KNOWN


@pytest.mark.parametrize(("kind", "name", "model", "data", "rtol", "atol"), CASES, ids=[case[1] for case in CASES])
def test_conforms(kind, name, model, data, rtol, atol):
    (node,) = model.graph.node
    (opset,) = (found.version for found in model.opset_import if not found.domain)
    attributes = {given.name: onnx.helper.get_attribute_value(given) for given in node.attribute}
    given = {tensor.name: to_array(tensor) for tensor in model.graph.initializer}
    names = [value.name for value in model.graph.input if value.name not in given]
    assert data
    for inputs, wanted in data:
        given.update(zip(names, inputs, strict=True))
        got = OPERATORS[node.op_type](opset, *(given[each] for each in node.input), **attributes)
        assert 0 < len(wanted) == len(node.output) <= len(got)
        assert got[0].dtype == wanted[0].dtype
        for a, b in zip(got, wanted, strict=False):
            assert a.shape == b.shape
            np.testing.assert_allclose(a, b, rtol=rtol, atol=atol)
