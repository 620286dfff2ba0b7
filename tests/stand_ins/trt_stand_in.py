"""TensorRT and the CUDA runtime, acted: enough behaviour to build and to run, and no attribute that a release lacks.

A World is one machine: a TensorRT release, a GPU, its memory, and the faults that it is given. Its `tensorrt` and
`cudart` stand in for the modules. Members come from ../trt_surfaces.json; touching any other raises AttributeError.
Work on a stream is queued and done only when the stream is waited for, as on a device.
"""

from __future__ import annotations

import enum
import json
import os
import signal
import sys
import time
import types
import weakref
from pathlib import Path

import numpy as np
from cuda_stand_in import Cudart
from trt_network_stand_in import SURFACES, Network, Parser, Strict, members_of

PLAN_MAGIC = b"acted plan\n"
NUMPY_OF = {"FLOAT": np.float32, "HALF": np.float16, "BF16": np.uint16, "UINT8": np.uint8}


MACHINE = {"sm": 87, "gpu": "Orin", "dla_cores": 0, "free": 2 << 30, "weights": 1000, "activations": 2000}
MACHINE |= {"multiprocessors": 8, "total": 4 << 30, "driver_cuda": 12060}


class Fault(dict):
    """The faults of a world; what is not set is False, and machine facts have defaults."""

    def __missing__(self, key):
        return MACHINE.get(key, False)


class TimingCache(Strict):
    _surface = "ITimingCache"

    def __init__(self, world, data):
        super().__init__(world)
        object.__setattr__(self, "_data", data)

    def serialize(self):
        return bytearray(self._data or f"timings of {self._world.release}".encode())


class Config(Strict):
    _surface = "IBuilderConfig"

    def __init__(self, world):
        super().__init__(world)
        vars(self).update(
            _flags={"TF32"}, _cache=None, builder_optimization_level=3, hardware_compatibility_level=None,
            default_device_type=None, DLA_core=-1, progress_monitor=None,
        )  # fmt: skip

    def set_flag(self, flag):
        self._world.record("set_flag", flag.name)
        self._flags.add(flag.name)

    def clear_flag(self, flag):
        self._world.record("clear_flag", flag.name)
        self._flags.discard(flag.name)

    def set_memory_pool_limit(self, pool, size):
        self._world.record("set_memory_pool_limit", [pool.name, size])

    def create_timing_cache(self, data):
        return TimingCache(self._world, bytes(data))

    def set_timing_cache(self, cache, ignore_mismatch):
        assert ignore_mismatch is False, "a cache of another device must not be taken"
        own = f"timings of {self._world.release}".encode()
        if cache._data not in (b"", own):
            return False
        self._world.record("set_timing_cache", len(cache._data))
        object.__setattr__(self, "_cache", cache)
        return True

    def get_timing_cache(self):
        return self._cache


class Builder(Strict):
    _surface = "IBuilder"

    def __init__(self, world, logger):
        super().__init__(world)
        if world.fault["no_builder"]:
            logger.log(world.logger_base.ERROR, "CUDA initialization failure with error: 100")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        vars(self).update(_logger=logger, num_DLA_cores=world.fault["dla_cores"])

    def create_network(self, flags=0):
        known = self._world.enums["NetworkDefinitionCreationFlag"]
        assert not flags & ~sum(1 << flag for flag in known), "unknown network flag"
        self._world.record("create_network", flags)
        return Network(self._world, flags)

    def create_builder_config(self):
        return Config(self._world)

    def build_serialized_network(self, network, config):
        world = self._world
        is_strong = self._is_strong(network)
        world.record("build", {"strong": is_strong, "flags": sorted(config._flags)})
        world.record("oom_score_adj", Path("/proc/self/oom_score_adj").read_text(encoding="ascii").strip())
        world.record("pid", os.getpid())
        monitor = config.progress_monitor if "progress_monitor" in config._allowed else None
        if monitor is not None:
            monitor.phase_start("Building engine", None, 2)
        self._suffer()
        refusal = self._refusal(network, config, is_strong)
        if refusal is not None:
            if refusal:
                self._say("ERROR", refusal)
            return None
        if monitor is not None:
            monitor.phase_start("Timing tactics", "Building engine", 4)
            assert all(monitor.step_complete("Timing tactics", step) for step in range(4))
            monitor.phase_finish("Timing tactics")
            monitor.phase_finish("Building engine")
        self._say("INFO", f"Total Activation Memory: {world.fault['activations']} bytes")
        self._say("INFO", f"Total Weights Memory: {world.fault['weights']} bytes")
        self._say("WARNING", "Detected subnormal FP16 values.")
        plan = {"release": world.release, "sm": world.fault["sm"], "tensors": []}
        for tensor in (*network._inputs, *network._outputs):
            is_input = tensor in network._inputs
            plan["tensors"].append([tensor.name, tensor.dtype.name, list(tensor.shape), is_input])
        return bytearray(PLAN_MAGIC + json.dumps(plan).encode())

    def _is_strong(self, network):
        if "FP16" not in self._world.enums["BuilderFlag"].__members__:
            return True
        bit = getattr(self._world.enums["NetworkDefinitionCreationFlag"], "STRONGLY_TYPED", None)
        return bit is not None and bool(network._flags & (1 << bit))

    def _suffer(self):
        """Faults on the way: what TensorRT says, how long it takes, how it dies."""
        if self._world.speaks_to_another_process:
            os.write(1, b"a library of TensorRT prints\n")
        for level, message in self._world.fault["build_says"] or ():
            self._say(level, message)
        if self._world.fault["hangs"]:
            time.sleep(60)
        if self._world.fault["die"]:
            self._die(self._world.fault["die"])

    def _refusal(self, network, config, is_strong):
        """Why there is no plan; None if there is, empty if nothing is said."""
        if is_strong and config._flags & {"FP16", "BF16", "INT8"}:
            return "a strongly typed network takes no precision flags"
        if is_strong and self._world.fault["strong_fails"]:
            return "Error Code 10: Could not find any implementation for node attention."
        is_quantized = any(layer.type.name == "QUANTIZE" for layer in network._layers)
        if not is_strong and is_quantized and "INT8" not in config._flags:
            return "explicit quantization needs the INT8 flag"
        return "" if self._world.fault["build_fails"] else None

    def _say(self, level, message):
        self._logger.log(getattr(self._world.logger_base, level), message)

    def _die(self, how):
        words = self._world.fault["last_words"] or "terminate called after throwing an instance of 'std::runtime_error'"
        if how == "SIGABRT":
            print(words, file=sys.stderr, flush=True)
        os.kill(os.getpid(), getattr(signal, how))


class Context(Strict):
    _surface = "IExecutionContext"

    def __init__(self, world, engine):
        super().__init__(world)
        vars(self).update(_engine=engine, _addresses={})

    def set_tensor_address(self, name, address):
        self._world.record("set_tensor_address", name)
        self._addresses[name] = address
        return not self._world.fault["refuses_addresses"]

    def execute_async_v3(self, stream_handle):
        self._world.record("execute_async_v3", stream_handle)
        return self._enqueue(dict(self._addresses), stream_handle)

    def _enqueue(self, addresses, stream):
        world = self._world
        if world.fault["refuses_capture"] and world.cudart.capturing is not None:
            self._engine._logger.log(world.logger_base.ERROR, "operation not permitted when stream is capturing")
            return False
        if world.fault["execution_fails"]:
            self._engine._logger.log(world.logger_base.ERROR, "cudaErrorIllegalAddress")
            return False
        world.cudart.queue(stream, lambda: run_model(world, self._engine._tensors, addresses))
        return True


def run_model(world, tensors, addresses):
    """The acted kernel: every output is filled with the image's mean, plus its place in the list of outputs."""
    memory = world.cudart.memory_at
    image = np.frombuffer(memory(addresses["image"]), dtype=np.uint8)
    for number, (name, dtype, _, is_input) in enumerate(tensors):
        if not is_input:
            value = np.float32(image.mean() + number)
            item = np.array([value]).view(np.uint32) >> 16 if dtype == "BF16" else value
            np.frombuffer(memory(addresses[name]), dtype=NUMPY_OF[dtype])[:] = np.asarray(item).astype(NUMPY_OF[dtype])


class Engine(Strict):
    _surface = "ICudaEngine"

    def __init__(self, world, logger, tensors):
        super().__init__(world)
        size = world.fault["activations"]
        vars(self).update(
            _logger=logger, _tensors=tensors, num_io_tensors=len(tensors),
            device_memory_size=size, device_memory_size_v2=size,
        )  # fmt: skip
        world.engines.append(weakref.ref(self))

    def _named(self, name):
        return next(tensor for tensor in self._tensors if tensor[0] == name)

    def _dtype(self, tensor):
        return self._world.enums["DataType"][tensor[1]]

    def create_execution_context(self):
        return None if self._world.fault["no_context"] else Context(self._world, self)

    def get_tensor_name(self, index):
        return self._tensors[index][0]

    def get_tensor_dtype(self, name):
        return self._dtype(self._named(name))

    def get_tensor_shape(self, name):
        return tuple(self._named(name)[2])

    def get_tensor_mode(self, name):
        modes = self._world.enums["TensorIOMode"]
        return modes.INPUT if self._named(name)[3] else modes.OUTPUT


class Runtime(Strict):
    _surface = "IRuntime"

    def __init__(self, world, logger):
        super().__init__(world)
        vars(self).update(_logger=logger, engine_host_code_allowed=False)

    def deserialize_cuda_engine(self, serialized_engine):
        world = self._world
        data = bytes(memoryview(serialized_engine))
        world.record("deserialize", self.engine_host_code_allowed if world.fault["host_code"] else len(data))
        if not data.startswith(PLAN_MAGIC) or world.fault["refuses_plans"]:
            self._logger.log(world.logger_base.ERROR, "Error Code 6: the engine plan file is not compatible")
            return None
        plan = json.loads(data[len(PLAN_MAGIC) :])
        return Engine(world, self._logger, plan["tensors"])


class World:
    """One machine.

    Args:
        release: of TensorRT, one of those in trt_surfaces.json.
        hidden: members that this release is further to lack.
        record_path: where calls are appended as JSON lines, for a world in another process.
        faults: see Fault and the classes above.
    """

    def __init__(self, release, *, hidden=(), record_path=None, **faults):
        self.release = self.surface = release
        self.fault = Fault(faults)
        self.hidden = frozenset(hidden)
        self.calls, self.engines = [], []
        self._record_path = record_path
        self.enums = {
            name: enum.IntEnum(name, sorted(members_of(release, name)), start=0, module=__name__)
            for name in (
                "BuilderFlag", "NetworkDefinitionCreationFlag", "MemoryPoolType", "HardwareCompatibilityLevel",
                "DeviceType", "TensorIOMode", "DataType", "LayerType", "OnnxParserFlag",
            )
        }  # fmt: skip
        levels = {"INTERNAL_ERROR": 0, "ERROR": 1, "WARNING": 2, "INFO": 3, "VERBOSE": 4}
        self.logger_base = type("ILogger", (), levels)
        self.cudart = Cudart(self)
        self.tensorrt = self._module()

    def _module(self):
        module = types.ModuleType("tensorrt")
        module.__version__ = self.release
        for name, values in self.enums.items():
            setattr(module, name, values)
        module.ILogger = self.logger_base
        if "IProgressMonitor" in SURFACES["releases"][self.release]:
            module.IProgressMonitor = type("IProgressMonitor", (), {})
        module.Builder = lambda logger: Builder(self, logger)
        module.Runtime = lambda logger: Runtime(self, logger)
        module.OnnxParser = lambda network, logger: Parser(self, network, logger)
        return module

    @property
    def speaks_to_another_process(self):
        """Whether standard output is a pipe to the exporter."""
        return self._record_path is not None

    def record(self, name, value):
        """Remember a call, with plain values."""
        plain = value.name if isinstance(value, enum.Enum) else value
        self.calls.append((name, plain))
        if self._record_path:
            with Path(self._record_path).open("a", encoding="utf-8") as stream:
                stream.write(json.dumps([name, plain], default=lambda other: type(other).__name__) + "\n")

    def count(self, name):
        """How often something was called."""
        return sum(call == name for call, _ in self.calls)

    def values(self, name):
        """What it was called with."""
        return [value for call, value in self.calls if call == name]


def world_of_environment():
    """The world that another process is to live in."""
    return World(**json.loads(os.environ["BRIXEL_ACTED_WORLD"]))
