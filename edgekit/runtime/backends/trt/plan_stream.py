"""A plan on its way out of TensorRT's builder and into its runtime, block by block: never whole beside their own copy.

With TensorRT for RTX 1.7 plans were written so; its reader's methods were called, but making one needs the driver.
"""

import mmap
from typing import Any

from edgekit.errors import OutputError
from edgekit.runtime.backends.trt.plans import PlanDraft, PlanReader
from edgekit.versions import numbers

_BLOCK_BYTES = 8 << 20


def write_plan(trt: Any, builder: Any, network: Any, config: Any, draft: PlanDraft) -> bool:  # noqa: ANN401
    """Build the plan into ``draft``, piece by piece where the builder can, and return whether there is one.

    A plan that is handed over as a whole is in memory once more: see docs/decisions/unified-memory.md.
    """
    if not hasattr(builder, "build_serialized_network_to_stream"):
        plan = builder.build_serialized_network(network, config)
        if plan is not None:
            draft.write(memoryview(plan))
        return plan is not None

    class Writer(trt.IStreamWriter):  # type: ignore[misc]
        """Keeps the error that ended it: none may pass through the builder's own frames."""

        def __init__(self) -> None:
            trt.IStreamWriter.__init__(self)
            self.error: OutputError | None = None

        def write(self, data: bytes) -> int:
            try:
                draft.write(data)
            except OutputError as error:
                self.error = error
                return 0
            return len(data)

    writer = Writer()
    built = bool(builder.build_serialized_network_to_stream(network, config, writer))
    if writer.error is not None:
        raise writer.error
    return built


def stream_reader(trt: Any, plan: PlanReader) -> Any:  # noqa: ANN401 - TensorRT's module and classes
    """Return what ``deserialize_cuda_engine`` of this TensorRT takes for a plan, which stays open until it returns.

    Asks for a CUDA driver: without one TensorRT raises RuntimeError. Where its reader cannot be used the file is
    mapped: pages of it, which the kernel takes back.
    """
    if reads_in_blocks(trt):
        return reader_class(trt, plan)()
    return memoryview(mmap.mmap(plan.fileno(), 0, access=mmap.ACCESS_READ))[: plan.size]


def reads_in_blocks(trt: Any) -> bool:  # noqa: ANN401
    """Return whether this TensorRT's reader asks again for what a read left out.

    The bindings of 10.7 and 10.8 do not, and copy to an address on the device as if it were the host's; 10.3 has an
    older reader only, which does not say that it asks again. Source: pyCore.cpp in releases 10.3 to 11.1 of TensorRT's
    public repository.
    """
    return hasattr(trt, "IStreamReaderV2") and not (10, 0) <= numbers(trt.__version__) < (10, 9)


def reader_class(trt: Any, plan: PlanReader) -> Any:  # noqa: ANN401
    """Return the reader's class for a TensorRT that reads in blocks."""

    class Reader(trt.IStreamReaderV2):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)

        def read(self, num_bytes: int, stream: int) -> bytes:  # noqa: ARG002 - the copy is TensorRT's own
            return plan.read(min(num_bytes, _BLOCK_BYTES))

        def seek(self, offset: int, where: Any) -> bool:  # noqa: ANN401 - a SeekPosition
            begin = {trt.SeekPosition.SET: 0, trt.SeekPosition.CUR: plan.tell(), trt.SeekPosition.END: plan.size}
            return plan.seek(begin[where] + offset)

    return Reader
