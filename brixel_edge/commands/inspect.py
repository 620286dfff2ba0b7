"""brixel-inspect: what a model directory, a graph or an engine is, without running it."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from brixel_edge.commands.command import add_common_arguments, run_command
from brixel_edge.errors import BrixelError, BundleError
from brixel_edge.model.bundle import MANIFEST_NAME, Bundle, open_bundle, resolve_model
from brixel_edge.model.engine_file import EngineReport, identity_from_name, read_report
from brixel_edge.model.graph_facts import graph_facts
from brixel_edge.model.json_form import fields_to_json
from brixel_edge.model.onnx_file import spec_from_onnx
from brixel_edge.model.receipt import Receipt
from brixel_edge.model.receipt_sections import Figures, Islands, Measured
from brixel_edge.model.spec import UNTRAINED_NOTICE, ModelSpec

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


def inspect(path: Path | None) -> tuple[dict[str, Any], list[str]]:
    """What is there: as plain JSON values, and as lines for people.

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


def _directory(bundle: Bundle) -> tuple[dict[str, Any], list[str]]:
    """The receipt, and whether the files are those that it lists."""
    intact = {name: _intact(bundle, name) for name in bundle.receipt.files}
    record = {
        "kind": "model directory",
        "path": str(bundle.root),
        "intact": intact,
        "receipt": bundle.receipt.to_json(),
    }
    return record, [str(bundle.root), *_receipt_lines(bundle.receipt, intact)]


def _intact(bundle: Bundle, name: str) -> str:
    try:
        bundle.file(name)
    except BrixelError:
        return "changed" if (bundle.root / name).is_file() else "missing"
    return "intact"


def _receipt_lines(receipt: Receipt, intact: dict[str, str]) -> list[str]:
    lines = [*_spec_lines(receipt.spec), "", "files"]
    width = max(46, *(len(name) for name in receipt.files)) + 2
    lines += [
        f"  {name:<{width}}{entry.bytes / 1e6:>9.2f} MB  {entry.sha256[:12]}  {intact[name]}"
        for name, entry in receipt.files.items()
    ]
    if receipt.parity:
        lines += ["", f"proof {'mean':>55}{'worst 1 %':>11}{'centred':>11}{'error':>10}"]
    for name, parity in receipt.parity.items():
        lines += [_figures_line(name, figures) for figures in (parity, *parity.also)]
    for name, kinds in receipt.precisions.items():
        lines += ["", f"{name}: {_totals(kinds)}, sampling by {receipt.samplers.get(name, 'unknown')}"]
        lines += [f"  {line}" for line in _island_lines(receipt.islands.get(name))]
    lines += _halves_lines(receipt)
    lines += [*_engine_lines(receipt), *_attempt_lines(receipt), *_evaluation_lines(receipt)]
    lines += _measured_lines(receipt.measured)
    return [*lines, "", "made by " + ", ".join(f"{name} {version}" for name, version in receipt.tools.items())]


def _halves_lines(receipt: Receipt) -> list[str]:
    """How the halves of --split, the backbone on every frame, compare with the graph that they were cut from."""
    lines = ["", "halves"] if receipt.halves else []
    for adapter, halves in (receipt.halves or {}).items():
        how = f"by {halves.error:.1e}" if halves.error else "in no bit"
        compared = f"{halves.images} photographs in {halves.backend}"
        lines.append(f"  {halves.backbone} and {adapter} differ from {halves.graph} {how}; {compared}")
    return lines


def _evaluation_lines(receipt: Receipt) -> list[str]:
    if not receipt.evaluations:
        return []
    lines = ["", f"{'scores':<40}{'mean':>9}{'spread':>9}  task"]
    for entry in receipt.evaluations:
        name = f"{entry.file}, {entry.backend}"
        what = (
            f"{entry.score} of {entry.task}, {entry.probe} probe, {entry.pictures} pictures, protocol {entry.protocol}"
        )
        lines.append(f"  {name:<38}{entry.mean:>9.4f}{entry.deviation:>9.4f}  {what}")
    return lines


def _spec_lines(spec: ModelSpec) -> list[str]:
    image = spec.image
    lines = [
        f"{spec.backbone} with adapter {spec.adapter}, patch {spec.patch_px} px, reads layers "
        f"{', '.join(map(str, spec.tap_layers))}; licence of the weights: {spec.licence}",
        f"image uint8 (1, {image.height}, {image.width}, 3) {image.channels} -> {spec.outputs_line}",
    ]
    if spec.head is not None and spec.head.classes:
        lines.append(f"classes: {', '.join(spec.head.classes)}")
    return lines if spec.trained else [*lines, UNTRAINED_NOTICE]


def _figures_line(name: str, figures: Figures) -> str:
    cosines = (figures.cosine_mean, figures.cosine_p01, figures.centred_mean)
    shown = "".join(f"{'none':>11}" if cosine is None else f"{cosine:>11.6f}" for cosine in cosines)
    error = f"{'none':>10}" if figures.frobenius is None else f"{figures.frobenius:>10.1e}"
    answers = "" if figures.answers is None else f"; {figures.answers.line}"
    return f"  {name:<48}{shown}{error}  {figures.backend}{answers}"


def _totals(kinds: dict[str, dict[str, int]]) -> str:
    """`612 nodes: 540 fp16, 72 fp32`."""
    totals: Counter[str] = Counter()
    for counts in kinds.values():
        totals.update(counts)
    return f"{totals.total()} nodes, {', '.join(f'{count} {kind}' for kind, count in totals.most_common())}"


def _island_lines(islands: Islands | None) -> list[str]:
    if islands is None:
        return []
    lines = [f"{islands.nodes} fp32 islands, level {islands.level}:"]
    for reason, nodes in islands.reasons.items():
        lines.append(f"{len(nodes):>5}  {reason} (largest magnitude {max(nodes.values()):.4g})")
    return lines


def _engine_lines(receipt: Receipt) -> list[str]:
    lines = ["", "engines"] if receipt.engines else []
    costs = receipt.measured.engines or {}
    for name, engine in receipt.engines.items():
        state = "proven at the export" if engine.proven else "NOT PROVEN: the export could not run it"
        build_s = costs[name].build_s if name in costs else None
        built = "" if build_s is None else f"built in {build_s:.1f} s, "
        lines.append(f"  {name}  from {engine.graph}, {built}{engine.report.typing} typing, {state}")
        lines += [f"    {line}" for line in engine.report.warnings]
    return lines


def _attempt_lines(receipt: Receipt) -> list[str]:
    if len(receipt.attempts) < 2:
        return []
    lines = ["", f"tried for --engine {receipt.requested.engine}"]
    for attempt in receipt.attempts:
        lines.append(f"  {attempt}: {'passed' if attempt.passed else f'failed: {attempt.error}'}")
    return lines


def _measured_lines(measured: Measured) -> list[str]:
    if measured.bench is None or not measured.bench.rows:
        return []
    when = measured.created_utc or "time unknown"
    lines = ["", f"measured at the export, {when}, {measured.bench.machine.get('cpu')}"]
    for row in measured.bench.rows:
        if row.p50_ms is not None:
            lines.append(f"  {row.name:<48}{row.p50_ms:>9.1f} ms{(row.peak_bytes or 0) / (1 << 20):>9.0f} MiB")
    return lines


def _graph(path: Path) -> tuple[dict[str, Any], list[str]]:
    spec = spec_from_onnx(path)
    facts = graph_facts(path)
    size = path.stat().st_size
    islands = sorted(node.name for node in facts.nodes if node.name in facts.float_islands)
    record = {
        "kind": "graph",
        "path": str(path),
        "bytes": size,
        "spec": spec.to_json(),
        "opset": facts.opset,
        "nodes": len(facts.nodes),
        "precision": list(facts.precisions),
        "precisions": facts.operator_types,
        "fp32_islands": islands,
        "inputs": [fields_to_json(tensor) for tensor in facts.inputs],
        "outputs": [fields_to_json(tensor) for tensor in facts.outputs],
    }
    lines = [f"{path}  {size / 1e6:.2f} MB, opset {facts.opset}", *_spec_lines(spec)]
    lines += ["", f"{' and '.join(facts.precisions)}: {_totals(facts.operator_types)}"]
    width = max(map(len, facts.operator_types))
    for operator, kinds in facts.operator_types.items():
        lines.append(f"  {operator:<{width}}  {', '.join(f'{count} {kind}' for kind, count in kinds.items())}")
    if islands:
        lines.append(f"{len(islands)} fp32 islands: {', '.join(islands[:8])} ...")
    return record, lines


def _engine(path: Path) -> tuple[dict[str, Any], list[str]]:
    report, identity = read_report(path), identity_from_name(path.name)
    if report is None and identity is None:
        raise BundleError(f"{path} is not an engine of brixel-export: it has no report beside it and another name")
    size = path.stat().st_size
    rebuild = identity.rebuild_option if identity else None
    record = {
        "kind": "engine",
        "path": str(path),
        "bytes": size,
        "report": report.to_json() if report else None,
        "rebuild": rebuild,
    }
    lines = [f"{path}  {size / 1e6:.2f} MB"]
    if report is None:
        return record, [*lines, f"no report beside it; rebuild: brixel-export ... {rebuild}"]
    return record, [*lines, *_report_lines(report)]


def _report_lines(report: EngineReport) -> list[str]:
    identity = report.identity
    targets = ", ".join(f"SM {capability}" for capability in identity.compute_capabilities)
    device = f" ({report.device_name})" if report.device_name else ""
    return [
        f"{identity.kind} {identity.version}, {identity.precision}, {report.typing} typing, for {targets}{device}",
        f"built from the graph with sha256 {report.graph_sha256[:12]}",
        *(f"  {tensor.name}: {tensor.dtype} {tensor.shape}" for tensor in report.tensors),
        *(f"  warning: {line}" for line in report.warnings),
    ]


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-inspect."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        record, lines = inspect(arguments.path)
        return record, "\n".join(lines)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
