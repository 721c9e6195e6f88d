"""A device in the host's memory, and a TensorRT on it whose plans are run by onnxruntime: stand-ins without a GPU.

They hold a backend to the rules that cuda.h and TensorRT's documentation state and that a GPU would break silently:
work waits until its stream is waited for, memory begins as garbage, addresses lie where they should, no output lies on
an input, no context is changed once a graph was captured from it, and none is captured before it ran as it is.
"""

import ctypes
import itertools
import json
import math
import threading
from types import SimpleNamespace

import msgspec
import numpy as np

from edgekit.errors import BackendError
from edgekit.runtime.backends.sizes import input_sizes
from edgekit.runtime.backends.trt.plans import PlanNote, PlanStore, plan_key

GARBAGE = 0xA5
SCRATCH_BYTES = 1000


class HostDevice:
    """A Device whose memory is the host's own."""

    capability = "8.7"

    def __init__(self):
        self.memory, self.pinned, self.streams, self.graphs = {}, {}, {}, {}
        self.refuses_capture = False
        self.left_mib = None
        self.capturing = {}  # by stream: what it was given since its capture began, and the contexts that ran
        self.uploads = []  # bytes of every copy to the device
        self._here = threading.local()
        self._names = itertools.count(1)

    def use(self):
        self._here.used = True

    def free_mib(self):
        return self.left_mib

    def allocate(self, size):
        return self._allocate(self.memory, size)

    def free(self, address):
        del self.memory[address]

    def allocate_host(self, size):
        return self._allocate(self.pinned, size)

    def free_host(self, address):
        del self.pinned[address]

    def copy_in(self, device, host, size, stream):
        self.inside(self.memory, device, size)
        self.uploads.append(size)
        if any(start <= host < start + len(held) for start, held in self.pinned.items()):
            self.inside(self.pinned, host, size)
            self.submit(stream, lambda: ctypes.memmove(device, host, size))
            return
        assert stream not in self.capturing, (
            "a graph would read memory that is not page-locked, whenever it is replayed"
        )
        data = ctypes.string_at(host, size)  # what is not page-locked is read before the call returns
        self.submit(stream, lambda: ctypes.memmove(device, data, size))

    def copy_out(self, host, device, size, stream):
        self.inside(self.memory, device, size)
        self.inside(self.pinned, host, size)
        self.submit(stream, lambda: ctypes.memmove(host, device, size))

    def zero(self, device, size, stream):
        self.inside(self.memory, device, size)
        self.submit(stream, lambda: ctypes.memset(device, 0, size))

    def open_stream(self):
        self.streams[name := next(self._names)] = []
        return name

    def close_stream(self, stream):
        del self.streams[stream]

    def wait(self, stream):
        assert stream not in self.capturing, "a stream that is being captured cannot be waited for"
        work, self.streams[stream] = self.streams[stream], []
        for one in work:
            one()

    def capture(self, stream, submit):
        if self.refuses_capture:
            raise BackendError("CUDA: cuStreamEndCapture answers 901 (operation failed due to a previous error)")
        self.capturing[stream] = work, contexts = [], []
        try:
            submit()
        finally:
            del self.capturing[stream]
        self.graphs[name := next(self._names)] = (work, [(context, context.changes) for context in contexts])
        return name

    def launch(self, graph, stream):
        work, states = self.graphs[graph]
        assert all(context.changes == changes for context, changes in states), "a context was changed after capture"
        self.streams[stream] += work

    def drop_graph(self, graph):
        del self.graphs[graph]

    def submit(self, stream, work):
        assert self._here.used, "the thread has no device"
        (self.capturing[stream][0] if stream in self.capturing else self.streams[stream]).append(work)

    @staticmethod
    def inside(where, address, size):
        """Demand that bytes lie in one allocation."""
        assert any(start <= address and address + size <= start + len(held) for start, held in where.items()), address

    def _allocate(self, where, size):
        assert size, "the driver refuses to allocate nothing"
        assert self._here.used, "the thread has no device"
        held = (ctypes.c_ubyte * size)()
        ctypes.memset(held, GARBAGE, size)
        where[ctypes.addressof(held)] = held
        return ctypes.addressof(held)


def publish(bundle, library, context_tokens=None, *, kind="tensorrt", device="8.7", store=None, **changes):
    """Write what ``edgekit build`` writes, with plans that the stand-in takes; ``changes`` are of their keys."""
    import hashlib

    context_tokens = context_tokens or bundle.manifest.protocol.context_tokens
    store = store or PlanStore(bundle)
    for name, component in bundle.manifest.components.items():
        sizes = input_sizes(bundle.manifest, name, context_tokens)
        bounds = {one: (size.low, size.high) for one, size in sizes.items()}
        plan = json.dumps({"graph": str(bundle.folder / component.graph), "bounds": bounds}).encode()
        key = plan_key(bundle, name, kind, library.__version__, device=device, context_tokens=context_tokens)
        note = PlanNote(
            key=msgspec.structs.replace(key, **changes), quantised_layers=0, quantised_asked=0, weight_bytes=0,
            build_s=0.0, sha256=hashlib.sha256(plan).hexdigest(), bytes=len(plan),
        )  # fmt: skip
        with store.draft(name) as draft:
            draft.write(plan)
            draft.publish(note)
    return store


def tensorrt(device, version="10.3.0"):
    """Return a module like ``tensorrt``; what it deserialises is listed in its ``taken``."""

    class ILogger:
        ERROR, INTERNAL_ERROR, WARNING = 1, 2, 3

    class Runtime:
        def __init__(self, logger):
            self.logger = logger

        def deserialize_cuda_engine(self, plan):
            library.taken.append(bytes(plan))
            try:
                return Engine(json.loads(bytes(plan)), device, self.logger, library)
            except ValueError:
                self.logger.log(ILogger.WARNING, "not what is to be told")
                self.logger.log(ILogger.ERROR, "magic tag\n does not match")
                return None

    library = SimpleNamespace(
        __version__=version, ILogger=ILogger, Runtime=Runtime, taken=[], contexts=0, nptype=lambda dtype: dtype,
        TensorLocation=SimpleNamespace(DEVICE="device", HOST="host"),
        ExecutionContextAllocationStrategy=SimpleNamespace(STATIC="static", USER_MANAGED="user"),
    )  # fmt: skip
    return library


def tensorrt_rtx(device):
    """Return a module like ``tensorrt_rtx``, which compiles at load: each context adds to its runtime cache."""

    class Cache:
        def __init__(self):
            self.held = b""

        def deserialize(self, blob):
            if not blob.startswith(b"compiled"):
                return False
            self.held = blob
            return True

        def serialize(self):
            return self.held

    class Config:
        cache = strategy = None

        def set_execution_context_allocation_strategy(self, strategy):
            self.strategy = strategy

        def create_runtime_cache(self):
            return Cache()

        def set_runtime_cache(self, cache):
            self.cache = cache

    library = tensorrt(device, "1.7.1.116")
    library.IRuntimeCache = Cache
    library.config = Config
    return library


class Engine:
    """An ICudaEngine, which onnxruntime runs."""

    def __init__(self, plan, device, logger, library):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(plan["graph"], options, providers=["CPUExecutionProvider"])
        self.bounds = plan["bounds"]
        self.device, self.logger, self.library = device, logger, library
        self.inputs = {node.name: node for node in self.session.get_inputs()}
        self.outputs = {node.name: node for node in self.session.get_outputs()}
        self._names = [*self.inputs, *self.outputs]
        self.num_io_tensors = len(self._names)
        self.device_memory_size_v2 = SCRATCH_BYTES
        self.capturable = True

    def get_tensor_name(self, index):
        return self._names[index]

    def get_tensor_dtype(self, name):
        return self.dtype(name)

    def get_tensor_location(self, name):
        host = name in self.bounds and self.bounds[name][0] == [1] and self.inputs[name].shape == [1]
        return self.library.TensorLocation.HOST if host else self.library.TensorLocation.DEVICE

    def create_runtime_config(self):
        return self.library.config()

    def create_execution_context(self, kind):
        if hasattr(kind, "cache"):
            kind.cache.held += b"compiled"
            kind = kind.strategy
        assert kind == self.library.ExecutionContextAllocationStrategy.USER_MANAGED
        self.library.contexts += 1
        return Context(self)

    def dtype(self, name):
        kind = (self.inputs | self.outputs)[name].type.removeprefix("tensor(").removesuffix(")")
        return np.dtype({"float": "float32"}.get(kind, kind))

    def is_host(self, name):
        return name in self.inputs and self.get_tensor_location(name) == self.library.TensorLocation.HOST


class Context:
    """An IExecutionContext."""

    def __init__(self, engine):
        self._engine = engine
        self._shapes, self._addresses, self._scratch = {}, {}, None
        self.changes = 0
        self._fresh = True  # changed since it last ran

    def is_stream_capturable(self, stream):
        assert stream in self._engine.device.streams
        return self._engine.capturable

    def set_device_memory(self, address, size):
        assert size >= SCRATCH_BYTES
        self._engine.device.inside(self._engine.device.memory, address, size)
        self._scratch = address

    def set_input_shape(self, name, shape):
        fixed = self._engine.inputs[name].shape
        low, high = self._engine.bounds.get(name, (fixed, fixed))
        if self._engine.is_host(name):
            low = high = fixed  # its bounds are those of its values
        if len(shape) != len(fixed) or not all(a <= x <= b for a, x, b in zip(low, shape, high, strict=True)):
            return False
        self._shapes[name] = tuple(shape)
        self._changed()
        return True

    def set_tensor_address(self, name, address):
        assert name in self._engine.inputs or name in self._engine.outputs, name
        assert address, "null"
        self._addresses[name] = address
        self._changed()
        return True

    def infer_shapes(self):
        missing = [name for name in self._engine.inputs if name not in self._shapes]
        for name, value in self._values().items():
            low, high = self._engine.bounds[name]
            if not low[0] <= value[0] <= high[0]:
                raise RuntimeError(f"{name} = {value[0]}")
        return missing

    def get_tensor_shape(self, name):
        if name in self._engine.inputs:
            return self._shapes[name]
        feeds = {one: np.zeros(shape, self._engine.dtype(one)) for one, shape in self._shapes.items()}
        return self._engine.session.run([name], feeds | self._values())[0].shape

    def execute_async_v3(self, stream):
        engine, device = self._engine, self._engine.device
        assert self._scratch is not None, "no memory to work in"
        assert self._addresses.keys() == engine.inputs.keys() | engine.outputs.keys()
        if stream in device.capturing:
            if self._fresh:
                engine.logger.log(1, "enqueueV3 was not called since a change")
                return False
            device.capturing[stream][1].append(self)
        self._fresh = False
        shapes, addresses, values = dict(self._shapes), dict(self._addresses), self._values()
        device.submit(stream, lambda: self._run(shapes, addresses, values))
        return True

    def _changed(self):
        self.changes += 1
        self._fresh = True

    def _values(self):
        return {
            name: self._read(self._engine.device.pinned, name, self._addresses[name], (1,))
            for name in self._engine.inputs
            if self._engine.is_host(name)
        }

    def _read(self, where, name, address, shape):
        dtype = self._engine.dtype(name)
        size = math.prod(shape) * dtype.itemsize
        self._engine.device.inside(where, address, size)
        return np.frombuffer(ctypes.string_at(address, size), dtype).reshape(shape)

    def _run(self, shapes, addresses, values):
        engine = self._engine
        memory = engine.device.memory
        feeds = {
            name: self._read(memory, name, addresses[name], shape)
            for name, shape in shapes.items()
            if not engine.is_host(name)
        }
        read = {addresses[name] for name in feeds}
        for name, array in zip(engine.outputs, engine.session.run(None, feeds | values), strict=True):
            assert addresses[name] not in read, f"{name} is written where an input lies"
            engine.device.inside(memory, addresses[name], array.nbytes)
            ctypes.memmove(addresses[name], array.tobytes(), array.nbytes)
