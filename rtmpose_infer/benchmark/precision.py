"""What a network computes in, and who decides it.

Some runtimes compute in what the model file holds, others can be told. A benchmark that silently measures another
precision than was asked for is worse than none, so what the backend says in the end is checked.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rtmpose_infer.errors import InputError

if TYPE_CHECKING:
    from rtmpose_infer.detector import PersonDetector
    from rtmpose_infer.estimator import PoseEstimator

__all__ = ["actual_precision", "check_precision", "precision_options"]

# Options by which a backend is told what to compute in; the others take it from the model file.
_OPTIONS: dict[str, dict[str, dict[str, Any]]] = {
    "openvino": {"fp32": {"precision": "f32"}, "fp16": {"precision": "f16"}, "bf16": {"precision": "bf16"}},
    "ncnn": {"fp32": {"precision": "fp32"}, "fp16": {"precision": "fp16"}},
}


def precision_options(backend: str, precision: str | None) -> Mapping[str, Any]:
    """Return the backend's options that ask for a precision; none where it cannot be told."""
    return _OPTIONS.get(backend, {}).get(precision or "", {})


def actual_precision(network: PersonDetector | PoseEstimator) -> str:
    """Return what a loaded network computes in.

    A quantised file is computed in INT8 wherever it has been quantised, whatever a runtime says of the rest.
    """
    if network.spec.precision == "int8":
        return "int8"
    return network.describe().precision or network.spec.precision


def check_precision(name: str, network: PersonDetector | PoseEstimator, wanted: str | None) -> None:
    """Check that a loaded network computes in what was asked for.

    Args:
        name: How messages call the network.
        network: The network.
        wanted: One of ``config.PRECISIONS``; None: anything.

    Raises:
        InputError: It computes in something else.
    """
    actual = actual_precision(network)
    if wanted is not None and actual != wanted:
        runtime = network.describe().runtime
        advice = "no file is exported in it; leave out --precision, or take openvino on a processor that has it"
        if wanted != "bf16":
            advice = f"there the model file decides: export it with `rtmpose export --precision {wanted}`"
        raise InputError(f"the {name} computes in {actual} on {runtime}, not in {wanted}; {advice}.")
