"""brixel-inspect: what a model directory, a graph or an engine is, without running it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BrixelError, BundleError
from brixel_edge.model.bundle import MANIFEST_NAME, Bundle, open_bundle, resolve_model
from brixel_edge.model.onnx_file import spec_from_onnx
from brixel_edge.model.spec import UNTRAINED_NOTICE

PROGRAM = "brixel-inspect"
EPILOG = """\
examples:
  brixel-inspect
      the built-in default model
  brixel-inspect vits16.brixel
      files and their hashes, proof, precisions and fp32 islands, what was tried
  brixel-inspect vits16.brixel/graph.fp16.onnx
  brixel-inspect vits16.brixel/engine.sm87.10.3.0.fp16.plan
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Spec, census, precisions, fp32 islands and receipt of a model.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "path", metavar="DIR|FILE", type=Path, nargs="?", help="model directory, .onnx or .plan (default: built in)"
    )
    add_common_arguments(parser)
    return parser


def inspect(path: Path | None) -> dict[str, Any]:
    """What is there, as plain JSON values.

    Raises:
        BundleError: nothing of ours.
    """
    if path is None:
        return _graph(resolve_model(None).graph)
    if path.is_dir():
        return _directory(open_bundle(path))
    if not path.is_file():
        raise BundleError(f"nothing at {path}; give a model directory, an .onnx file or a .plan file")
    if path.name == MANIFEST_NAME:
        return _directory(open_bundle(path.parent))
    return _engine(path) if path.suffix == ".plan" else _graph(path)


def _directory(bundle: Bundle) -> dict[str, Any]:
    """The receipt, and whether the files are those that it lists."""
    return {
        "kind": "model directory",
        "path": str(bundle.root),
        "intact": {name: _intact(bundle, name) for name in bundle.manifest["files"]},
        "receipt": bundle.manifest,
    }


def _intact(bundle: Bundle, name: str) -> str:
    try:
        bundle.file(name)
    except BrixelError:
        return "changed" if (bundle.root / name).is_file() else "missing"
    return "intact"


def _graph(path: Path) -> dict[str, Any]:
    from brixel_edge.model.graph_facts import graph_facts

    spec = spec_from_onnx(path)
    facts = graph_facts(path)
    return {
        "kind": "graph",
        "path": str(path),
        "bytes": path.stat().st_size,
        "spec": spec.to_json(),
        "opset": facts.opset,
        "nodes": len(facts.nodes),
        "precision": list(facts.precisions),
        "precisions": facts.operator_types,
        "fp32_islands": sorted(node.name for node in facts.nodes if node.name in facts.float_islands),
        "inputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in facts.inputs],
        "outputs": [{"name": t.name, "dtype": t.dtype, "shape": list(t.shape)} for t in facts.outputs],
    }


def _engine(path: Path) -> dict[str, Any]:
    from brixel_edge.model.engine_file import identity_from_name, read_report

    report, identity = read_report(path), identity_from_name(path.name)
    if report is None and identity is None:
        raise BundleError(f"{path} is not an engine of brixel-export: it has no report beside it and another name")
    return {
        "kind": "engine",
        "path": str(path),
        "bytes": path.stat().st_size,
        "report": report.to_json() if report else None,
        "rebuild": identity.rebuild_option if identity else None,
    }


def text_of(record: dict[str, Any]) -> str:
    """The result for people."""
    kinds = {"model directory": _directory_text, "graph": _graph_text, "engine": _engine_text}
    return "\n".join(kinds[record["kind"]](record))


def _spec_lines(spec: dict[str, Any]) -> list[str]:
    image = spec["image"]
    lines = [
        f"{spec['backbone']} with adapter {spec['adapter']}, patch {spec['patch_px']} px, reads layers "
        f"{', '.join(map(str, spec['tap_layers']))}; licence of the weights: {spec['licence']}",
        f"image uint8 (1, {image['height']}, {image['width']}, 3) {image['channels']} -> features "
        f"(1, {spec['dim']}, {spec['grid'][0]}, {spec['grid'][1]})",
    ]
    return lines if spec["trained"] else [*lines, UNTRAINED_NOTICE]


def _directory_text(record: dict[str, Any]) -> list[str]:
    receipt = record["receipt"]
    lines = [record["path"], *_spec_lines(receipt["spec"]), "", "files"]
    width = max(46, *(len(name) for name in receipt["files"])) + 2
    lines += [
        f"  {name:<{width}}{entry['bytes'] / 1e6:>9.2f} MB  {entry['sha256'][:12]}  {record['intact'][name]}"
        for name, entry in receipt["files"].items()
    ]
    if receipt["parity"]:
        lines += ["", f"proof {'mean':>55}{'worst 1 %':>11}{'centred':>11}{'error':>10}"]
        for name, parity in receipt["parity"].items():
            for entry in (parity, *parity.get("also", [])):
                cosines = "".join(f"{entry[key]:>11.6f}" for key in ("cosine_mean", "cosine_p01", "centred_mean"))
                lines.append(f"  {name:<48}{cosines}{entry['frobenius']:>10.1e}  {entry['backend']}")
    for name, kinds in receipt["precisions"].items():
        lines += ["", f"{name}: {_totals(kinds)}, sampling by {receipt['samplers'].get(name, 'unknown')}"]
        lines += [f"  {line}" for line in _island_lines(receipt["islands"].get(name))]
    lines += _receipt_engine_lines(receipt["engines"], receipt["measured"].get("engines", {}))
    lines += _attempt_lines(receipt)
    lines += _measured_lines(receipt["measured"])
    return [*lines, "", "made by " + ", ".join(f"{name} {version}" for name, version in receipt["tools"].items())]


def _receipt_engine_lines(engines: dict[str, Any], measured: dict[str, Any]) -> list[str]:
    lines = ["", "engines"] if engines else []
    for name, engine in engines.items():
        state = "proven at the export" if engine.get("proven", True) else "NOT PROVEN: the export could not run it"
        build_s = measured.get(name, {}).get("build_s")
        built = "" if build_s is None else f"built in {build_s:.1f} s, "
        lines.append(f"  {name}  from {engine['graph']}, {built}{engine['typing']} typing, {state}")
        lines += [f"    {line}" for line in engine["warnings"]]
    return lines


def _totals(kinds: dict[str, dict[str, int]]) -> str:
    """`612 nodes: 540 fp16, 72 fp32`."""
    totals: dict[str, int] = {}
    for counts in kinds.values():
        for kind, count in counts.items():
            totals[kind] = totals.get(kind, 0) + count
    parts = ", ".join(f"{count} {kind}" for kind, count in sorted(totals.items(), key=lambda item: -item[1]))
    return f"{sum(totals.values())} nodes, {parts}"


def _island_lines(islands: dict[str, Any] | None) -> list[str]:
    if not islands:
        return []
    lines = [f"{islands['nodes']} fp32 islands, level {islands['level']}:"]
    for reason, nodes in islands["reasons"].items():
        lines.append(f"{len(nodes):>5}  {reason} (largest magnitude {max(nodes.values()):.4g})")
    return lines


def _attempt_lines(receipt: dict[str, Any]) -> list[str]:
    if len(receipt["attempts"]) < 2:
        return []
    lines = ["", f"tried for --engine {receipt['requested'].get('engine', 'onnx')}"]
    for attempt in receipt["attempts"]:
        wide = " with wide islands" if attempt["islands"] == "wide" else ""
        verdict = "passed" if attempt["passed"] else f"failed: {attempt['error']}"
        lines.append(f"  {attempt['precision']}{wide}, {attempt['sampler']}: {verdict}")
    return lines


def _measured_lines(measured: dict[str, Any]) -> list[str]:
    rows = measured.get("bench", {}).get("rows", [])
    if not rows:
        return []
    lines = [
        "",
        f"measured at the export, {measured.get('created_utc', 'time unknown')}, {measured['bench']['machine']['cpu']}",
    ]
    for row in rows:
        if row["error"] is None:
            lines.append(f"  {row['name']:<48}{row['p50_ms']:>9.1f} ms{row['peak_bytes'] / (1 << 20):>9.0f} MiB")
    return lines


def _graph_text(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['path']}  {record['bytes'] / 1e6:.2f} MB, opset {record['opset']}", *_spec_lines(record["spec"])]
    lines += ["", f"{' and '.join(record['precision'])}: {_totals(record['precisions'])}"]
    width = max(map(len, record["precisions"]))
    for operator, kinds in record["precisions"].items():
        lines.append(f"  {operator:<{width}}  {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    if record["fp32_islands"]:
        lines.append(f"{len(record['fp32_islands'])} fp32 islands: {', '.join(record['fp32_islands'][:8])} ...")
    return lines


def _engine_text(record: dict[str, Any]) -> list[str]:
    lines = [f"{record['path']}  {record['bytes'] / 1e6:.2f} MB"]
    report = record["report"]
    if report is None:
        return [*lines, f"no report beside it; rebuild: brixel-export ... {record['rebuild']}"]
    identity = report["identity"]
    targets = ", ".join(f"SM {capability}" for capability in identity["compute_capabilities"])
    lines.append(
        f"{identity['kind']} {identity['version']}, {identity['precision']}, {report['typing']} typing, for {targets}"
        + (f" ({report['device_name']})" if report["device_name"] else "")
    )
    lines.append(f"built from the graph with sha256 {report['graph_sha256'][:12]}")
    lines += [f"  {t['name']}: {t['dtype']} {tuple(t['shape'])}" for t in report["tensors"]]
    lines += [f"  warning: {line}" for line in report["warnings"]]
    return lines


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-inspect."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        record = inspect(arguments.path)
        return record, text_of(record)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
