"""A network that OpenVINO runs on the processor, called with numpy's arrays. No torch."""

from __future__ import annotations

import sys
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import numpy as np

from covsev.inference.slices import Slices
from covsev.inference.threads import thread_share

MOST_STREAMS = 8
"""More do not help: then reading and resizing take longer than the networks."""


class OpenVinoRunner:
    """A compiled OpenVINO model as a function of numpy's arrays, that several threads may call at a time.

    Each call has a stream, and each stream one thread. Two slices side by side take less time than two threads on one
    slice, because these wait for each other after every layer.

    Args:
        compiled: of ``openvino.Core.compile_model``, with one output.
        streams: calls that are computed at a time; others wait.
        kept_as: name of the cache's folder that the model was read from; ``None`` if it is kept nowhere.
    """

    def __init__(self, compiled: Any, streams: int = 1, kept_as: str | None = None):
        self.compiled, self.streams, self.kept_as = compiled, streams, kept_as
        self._free: SimpleQueue[Any] = SimpleQueue()
        for _ in range(streams):
            self._free.put(compiled.create_infer_request())

    @property
    def at_a_time(self) -> int:
        """How many calls are computed at a time."""
        return self.streams

    def __call__(self, images: Slices) -> Slices:
        """Logits of a batch (N, C, h, w), in its order."""
        request = self._free.get()
        try:
            request.infer({0: np.ascontiguousarray(images)}, share_inputs=True)
            # Copied, because the request uses its memory again for the next call.
            return request.get_output_tensor(0).data.copy()  # type: ignore[no-any-return]
        finally:
            self._free.put(request)


def import_openvino() -> Any:
    """OpenVINO, kept from reporting its use over the network: it takes its own stub where telemetry is missing."""
    if "openvino" not in sys.modules:
        # None makes ``import openvino_telemetry`` fail, as if it were not installed.
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def open_network(model: Path | Any, precision: str = "f32", *, kept_as: str | None = None) -> OpenVinoRunner:
    """A runner of a model or of its file.

    Args:
        model: OpenVINO's own, or the path of its XML file.
        precision: ``f32`` or ``bf16``.
        kept_as: see :class:`OpenVinoRunner`.
    """
    core = import_openvino().Core()
    threads = thread_share()
    settings = {  # its own default would be bfloat16 where the processor has it
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": min(threads, MOST_STREAMS),
        "ENABLE_CPU_PINNING": False,  # each worker process would pin its threads to the same first cores
    }
    compiled = core.compile_model(core.read_model(model) if isinstance(model, Path) else model, "CPU", settings)
    return OpenVinoRunner(compiled, compiled.get_property("NUM_STREAMS"), kept_as)
