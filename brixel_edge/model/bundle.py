"""The model directory `NAME.brixel/`: what brixel-export writes and everything else opens.

`model.json` is the receipt: the spec, a sha256 of every file, tool versions, licence, parity. It is written last, so a
directory without one was never finished. Engines and graphs lie beside it under fixed names. Knows nothing of what is
inside a graph.
"""

from __future__ import annotations

import glob
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from brixel_edge.errors import BundleError
from brixel_edge.machine.files import sha256_of, write_atomically
from brixel_edge.model.agreement import check_bare_graph, check_graph_of_receipt
from brixel_edge.model.receipt import Receipt, read_receipt
from brixel_edge.model.receipt_sections import Evaluation, Failure, FileEntry
from brixel_edge.model.spec import ModelSpec

MANIFEST_NAME = "model.json"
FAILURE_NAME = "failed.json"
COLOURS_NAME = "colours.npz"  # what the model's pictures are painted with; found at the first run, no part of the model
PASSED_SUFFIX = ".passed.json"  # notes of a device that an engine has passed there; no part of the model
_REMAINS = re.compile(r"\.(old\.)?[a-z0-9_]{8}")  # of tempfile.mkdtemp
# In ONNX Runtime's own operators, and with half precision around its integers, for TensorRT.
ORT_INT8_NAME, TRT_INT8_NAME = "graph.int8.ort.onnx", "graph.int8.trt.onnx"
DEFAULT_MODEL = Path(__file__).parents[1] / "default.onnx"


def graph_name(precision: str) -> str:
    """File name of the graph of one precision, for instance `graph.fp32.onnx`."""
    return f"graph.{precision}.onnx"


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """An opened model directory.

    Attributes:
        root: the directory.
        receipt: what model.json says.
    """

    root: Path
    receipt: Receipt

    @property
    def spec(self) -> ModelSpec:
        """The model's, from the receipt."""
        return self.receipt.spec

    @property
    def precisions(self) -> list[str]:
        """The precisions that have a graph here."""
        graphs = [name for name in self.receipt.files if name.startswith("graph.") and name.endswith(".onnx")]
        return list(dict.fromkeys(name.split(".")[1] for name in graphs))

    def file(self, name: str) -> Path:
        """Path of a file of the bundle, checked against its recorded sha256.

        Raises:
            BundleError: not part of the bundle, missing or changed since the export.
        """
        recorded = self.receipt.files.get(name)
        if recorded is None:
            raise BundleError(f"{self.root} has no {name}; it has {', '.join(sorted(self.receipt.files))}")
        path = self.root / name
        if not path.is_file():
            raise BundleError(f"{path} is missing though {MANIFEST_NAME} lists it; export the model again")
        if sha256_of(path) != recorded.sha256:
            raise BundleError(f"{path} differs from the file that was exported (sha256); export the model again")
        return path

    def graph(self, name: str) -> Path:
        """Path of a graph of the bundle, checked as `file`, and against the receipt's spec.

        Raises:
            BundleError: as `file`, or a graph with another spec, other shapes or types.
        """
        path = self.file(name)
        check_graph_of_receipt(path, self.spec)
        return path


def open_bundle(root: str | Path) -> Bundle:
    """Read a model directory's receipt.

    Raises:
        BundleError: no model directory, an unfinished or an unreadable one.
    """
    root = Path(root)
    manifest_path = root / MANIFEST_NAME
    if not manifest_path.is_file():
        raise BundleError(
            f"{root} is not a model directory: it has no {MANIFEST_NAME}; make one with brixel-export --out"
        )
    return Bundle(root=root, receipt=read_receipt(manifest_path))


@dataclass(frozen=True, kw_only=True)
class ResolvedModel:
    """What a user's MODEL argument means.

    Attributes:
        graph: the file to load, a graph or a plan.
        spec: its spec.
        name: what to call it in output.
        root: the model directory, where there is one.
    """

    graph: Path
    spec: ModelSpec
    name: str
    root: Path | None = None


def resolve_model(path: str | Path | None = None, precision: str | None = None) -> ResolvedModel:
    """Find the graph behind a model directory, a bare .onnx file, or None for the built-in default.

    Which engine of a directory runs on a device is decided by `brixel_edge.runtimes.choice`.

    Args:
        path: model directory or .onnx file; None is the default model of the package.
        precision: which graph of a directory; None takes fp32 if there, else the first.

    Raises:
        BundleError: nothing there that is a model.
    """
    if path is None:
        return ResolvedModel(graph=DEFAULT_MODEL, spec=check_bare_graph(DEFAULT_MODEL), name="built-in default")
    path = Path(path)
    if path.is_dir():
        bundle = open_bundle(path)
        chosen = precision or ("fp32" if "fp32" in bundle.precisions else next(iter(bundle.precisions), "fp32"))
        return ResolvedModel(graph=bundle.graph(graph_name(chosen)), spec=bundle.spec, name=path.name, root=path)
    if not path.exists():
        raise BundleError(f"no model at {path}; give a model directory, an .onnx file of brixel-export, or nothing")
    return ResolvedModel(graph=path, spec=check_bare_graph(path), name=path.name)


@contextmanager
def staged_directory(out: Path) -> Iterator[Path]:
    """A temporary directory beside `out` that takes its place only when the block ends without an error.

    An earlier model directory at `out` is replaced whole; anything else there is refused.

    Raises:
        BundleError: `out` exists and is not a model directory, or nothing can be written there.
    """
    if out.exists() and not _is_replaceable(out):
        raise BundleError(f"{out} exists and is not a model directory; choose another --out or remove it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _clear_remains(out)
        stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise BundleError(f"nothing can be written at {out} ({error.strerror}); choose another --out") from error
    lock = _locked(stage)
    try:
        stage.chmod(0o755)
        yield stage
        if out.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
            out.replace(retired / out.name)
            stage.replace(out)
            shutil.rmtree(retired)
        else:
            stage.replace(out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _locked(folder: Path) -> int | None:
    """Hold a folder until the handle is closed or the process ends, however it ends; None where that cannot be."""
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        return None
    return handle


def _clear_remains(out: Path) -> None:
    """Remove what killed exports to `out` have left beside it; those that still run are left alone.

    An export that was killed while it took the place of an earlier model has left that one in its hidden folder: it is
    put back.
    """
    for folder in out.parent.glob(f".{glob.escape(out.name)}.*"):
        handle = _locked(folder) if folder.is_dir() and _REMAINS.fullmatch(folder.name[len(out.name) + 1 :]) else None
        if handle is None:
            continue
        if (folder / out.name / MANIFEST_NAME).is_file() and not out.exists():
            (folder / out.name).replace(out)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _is_replaceable(out: Path) -> bool:
    """A model directory, an empty one, or one that holds nothing but the report of a failed export."""
    if not out.is_dir():
        return False
    return (out / MANIFEST_NAME).is_file() or {path.name for path in out.iterdir()} <= {FAILURE_NAME}


def write_failure(out: Path, failure: Failure) -> Path:
    """Leave the report of an export that failed, `failed.json`; an earlier model there stays as it is."""
    out.mkdir(parents=True, exist_ok=True)
    path = out / FAILURE_NAME
    write_atomically(path, json.dumps(failure.to_json(), indent=2, allow_nan=False) + "\n")
    return path


def add_evaluations(root: Path, evaluations: Sequence[Evaluation]) -> Receipt:
    """Add scores to a model directory's receipt; those of the same file, backend, task and score are replaced.

    Nothing else changes: the checksums stay those of the export.

    Raises:
        BundleError: no model directory, or a score of a file that is not in it.
    """
    receipt = open_bundle(root).receipt
    for entry in evaluations:
        if entry.file not in receipt.files:
            raise BundleError(f"{root} has no {entry.file}; it has {', '.join(sorted(receipt.files))}")
    kept = {_place(entry): entry for entry in (*(receipt.evaluations or ()), *evaluations)}
    written = replace(receipt, evaluations=tuple(kept.values()))
    write_atomically(root / MANIFEST_NAME, json.dumps(written.to_json(), indent=2, allow_nan=False) + "\n")
    return written


def _place(entry: Evaluation) -> tuple[str, ...]:
    return entry.file, entry.backend, entry.task, entry.data, entry.protocol, entry.probe, entry.score


def write_receipt(root: Path, receipt: Receipt) -> Receipt:
    """Write model.json over all files now in `root`.

    Returns:
        what was written: the receipt with sizes and sha256 of those files.
    """
    files = {
        path.name: FileEntry(sha256=sha256_of(path), bytes=path.stat().st_size)
        for path in sorted(root.iterdir())
        if path.is_file() and path.name not in (MANIFEST_NAME, COLOURS_NAME) and not path.name.endswith(PASSED_SUFFIX)
    }
    written = replace(receipt, files=files)
    write_atomically(root / MANIFEST_NAME, json.dumps(written.to_json(), indent=2, allow_nan=False) + "\n")
    return written
