"""Make ../trt_surfaces.json: what each TensorRT release's Python API has, of the classes that we touch.

    python tests/stand_ins/make_surfaces.py FOLDER

FOLDER holds one text file a release, `## CLASS name` or `## ENUM name` followed by `  d member` and `  v value` lines,
as drawn from the public binding sources. Those files leave out the network, the parser and a few properties that their
extraction missed; ADDITIONS has those that we need, each with the place that it is known from.
"""

import json
import sys
from pathlib import Path

CLASSES = {
    "ILogger", "IProgressMonitor", "IBuilder", "IBuilderConfig", "BuilderFlag", "NetworkDefinitionCreationFlag",
    "MemoryPoolType", "HardwareCompatibilityLevel", "DeviceType", "ITimingCache", "IRuntime", "ICudaEngine",
    "IExecutionContext", "TensorIOMode",
}  # fmt: skip

PARSER = "TensorRT developer guide, ONNX parser in Python (all releases); the same in tensorrt_rtx 1.7.1"
NETWORK = "TensorRT Python API reference, INetworkDefinition, ILayer, ITensor; the same in tensorrt_rtx 1.7.1"
TYPES_8 = ["FLOAT", "HALF", "INT8", "INT32", "BOOL", "UINT8", "FP8"]
TYPES_10 = [*TYPES_8, "BF16", "INT64", "INT4"]
LAYERS = [
    "CONVOLUTION", "CAST", "ACTIVATION", "POOLING", "SCALE", "SOFTMAX", "DECONVOLUTION", "CONCATENATION",
    "ELEMENTWISE", "UNARY", "SHUFFLE", "REDUCE", "GATHER", "MATRIX_MULTIPLY", "CONSTANT", "IDENTITY", "SLICE", "RESIZE",
    "QUANTIZE", "DEQUANTIZE", "GRID_SAMPLE", "NORMALIZATION",
]  # fmt: skip
ALL = ["8.6.1", "10.3.0", "10.13.0", "11.1"]
WEAK = ALL[:3]

# (releases, class, members, source)
ADDITIONS = [
    (ALL, "OnnxParser", ["parse_from_file", "num_errors", "get_error", "set_flag"], PARSER),
    (ALL, "OnnxParserFlag", ["NATIVE_INSTANCENORM"], PARSER),
    (ALL, "ParserError", ["desc", "node"], PARSER),
    (ALL[1:], "ParserError", ["node_name", "node_operator"], "tensorrt_rtx 1.7.1; not known of 8.6"),
    (
        ALL,
        "INetworkDefinition",
        ["num_layers", "get_layer", "num_inputs", "get_input", "num_outputs", "get_output"],
        NETWORK,
    ),
    (ALL, "ILayer", ["name", "type", "num_outputs", "get_output"], NETWORK),
    (WEAK, "ILayer", ["precision", "set_output_type"], "the same; gone in 11.x (10.x to 11.x migration guide)"),
    (ALL, "ITensor", ["name", "dtype", "shape"], NETWORK),
    (["8.6.1"], "DataType", TYPES_8, "TensorRT Python API reference, DataType"),
    (ALL[1:], "DataType", TYPES_10, "TensorRT Python API reference, DataType"),
    (ALL, "LayerType", LAYERS, NETWORK),
    (ALL, "IBuilderConfig", ["default_device_type"], "TensorRT developer guide, DLA; the same in tensorrt_rtx 1.7.1"),
    (
        ALL,
        "IRuntime",
        ["engine_host_code_allowed"],
        "TensorRT developer guide, version compatibility (from 8.6 on); the same in tensorrt_rtx 1.7.1",
    ),
]


def surface(path):
    members, name = {}, ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            name = line.split()[2]
        elif name in CLASSES:
            members.setdefault(name, set()).add(line.split()[1])
    # A class without a listed member is there all the same.
    return {name: sorted(found - {"__del__", "__bool__", "__nonzero__"}) for name, found in members.items()}


def main(folder):
    releases = {path.stem: surface(path) for path in sorted(folder.glob("*.txt"))}
    additions = [{"releases": r, "class": c, "members": m, "source": s} for r, c, m, s in ADDITIONS]
    target = Path(__file__).resolve().parents[1] / "trt_surfaces.json"
    lines = []
    for release, classes in releases.items():
        members = ",\n".join(f'   "{name}": {json.dumps(found)}' for name, found in classes.items())
        lines.append(f'  "{release}": {{\n{members}\n  }}')
    facts = ",\n".join(f"  {json.dumps(addition)}" for addition in additions)
    text = '{\n "releases": {\n' + ",\n".join(lines) + '\n },\n "additions": [\n' + facts + "\n ]\n}\n"
    json.loads(text)
    target.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
