"""Published weights: what there is, fetching it into a cache folder, finding it there.

The authors' adapters lie on Google Drive (their README at f19a3c7), the backbones on timm's hub. Nothing is fetched
unless it is asked for by name, by `pretrained` or by `official`. Neither publisher gives checksums: that of a file's
first arrival is kept beside it, and every later use must have the same.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from brixel_edge.errors import BackendMissing, BundleError, SpecError
from brixel_edge.machine.files import sha256_of, write_atomically
from brixel_edge.machine.transfer import fetch_file
from brixel_edge.model.backbones import BUILT_IN, BUILT_IN_VIEW, BackboneSpec
from brixel_edge.network.built_in import built_in_adapter, built_in_backbone

CACHE_VARIABLE = "BRIXEL_CACHE"
PRETRAINED, OFFICIAL = "pretrained", "official"
DRIVE = "https://drive.google.com/file/d/{}/view"
HUB = "https://huggingface.co/{}/resolve/main/model.safetensors"
DINOV3_LICENCE = "dinov3-license"


@dataclass(frozen=True, kw_only=True)
class Published:
    """One file of published weights.

    Attributes:
        name: what it is asked for by.
        kind: of weights.
        backbone: timm's name of the backbone that it is, or that it is for.
        source: id on Google Drive, or repository on the hub.
        megabytes: about; from counts of parameters in fp32.
        licence: as the publisher names it; of adapters also that of their backbone.
    """

    name: str
    kind: Literal["adapter", "backbone"]
    backbone: str
    source: str
    megabytes: int
    licence: str

    @property
    def address(self) -> str:
        """Where a person can fetch it."""
        return (DRIVE if self.kind == "adapter" else HUB).format(self.source)

    @property
    def file_name(self) -> str:
        """In the cache."""
        return f"{self.name}.pth" if self.kind == "adapter" else f"{self.name}.safetensors"


Fetch = Callable[[Published, Path], None]


def _adapter(name: str, backbone: str, source: str, megabytes: int) -> Published:
    licence = f"MIT, and {DINOV3_LICENCE}"
    return Published(name=name, kind="adapter", backbone=backbone, source=source, megabytes=megabytes, licence=licence)


def _backbone(name: str, timm_name: str, tag: str, megabytes: int, licence: str = DINOV3_LICENCE) -> Published:
    source = f"timm/{timm_name}.{tag}"
    return Published(
        name=name, kind="backbone", backbone=timm_name, source=source, megabytes=megabytes, licence=licence
    )


# The first adapter of a backbone is the one that `official` means.
PUBLISHED: tuple[Published, ...] = (
    _adapter("adapter-vits16", "vit_small_patch16_dinov3", "1ItRulT6xzhkY6DHRJi8t5k3kbDAoLeVf", 16),
    _adapter("adapter-vitb16", "vit_base_patch16_dinov3", "1eVYNr1ZyhxTSPwbUb-aPdD52d2hGubLQ", 44),
    _adapter("adapter-vitb16-480", "vit_base_patch16_dinov3", "1f_vpsCCkGZCXGgoGgd0AnJ1GoQJSvmee", 44),
    _adapter("adapter-vitl16", "vit_large_patch16_dinov3", "1LuRXvqxz_T5xIKe4DANc4KW3hiPUETzX", 72),
    _adapter("adapter-vith16plus", "vit_huge_plus_patch16_dinov3", "1h3erb8L1gG_dUMw57mGIL06LGuxHD47n", 107),
    _backbone("vit_small_patch16_dinov3", "vit_small_patch16_dinov3", "lvd1689m", 86),
    _backbone("vit_small_plus_patch16_dinov3", "vit_small_plus_patch16_dinov3", "lvd1689m", 115),
    _backbone("vit_base_patch16_dinov3", "vit_base_patch16_dinov3", "lvd1689m", 343),
    _backbone("vit_large_patch16_dinov3", "vit_large_patch16_dinov3", "lvd1689m", 1213),
    _backbone("vit_huge_plus_patch16_dinov3", "vit_huge_plus_patch16_dinov3", "lvd1689m", 3363),
    _backbone("vit_7b_patch16_dinov3", "vit_7b_patch16_dinov3", "lvd1689m", 26860),
    _backbone("vit_base_patch16_siglip2", "vit_base_patch16_siglip_256", "v2_webli", 372, "apache-2.0"),
    _backbone("vit_base_patch16_pe", "vit_pe_spatial_base_patch16_512", "fb", 345, "apache-2.0"),
    _backbone("vit_small_patch14_dinov2", "vit_small_patch14_reg4_dinov2", "lvd142m", 88, "apache-2.0"),
    _backbone("vit_base_patch14_dinov2", "vit_base_patch14_reg4_dinov2", "lvd142m", 346, "apache-2.0"),
    _backbone("vit_tiny_patch16_224", "vit_tiny_patch16_224", "augreg_in21k_ft_in1k", 23, "apache-2.0"),
)


def cache_folder() -> Path:
    """Where published weights are kept: BRIXEL_CACHE, or ~/.cache/brixel-edge."""
    given = os.environ.get(CACHE_VARIABLE)
    return Path(given) if given else Path.home() / ".cache" / "brixel-edge"


def published(name: str) -> Published:
    """An entry by name.

    Raises:
        SpecError: no such name; the message lists those there are.
    """
    for entry in PUBLISHED:
        if entry.name == name:
            return entry
    raise SpecError(f"no weights are published as {name!r}; there are {', '.join(entry.name for entry in PUBLISHED)}")


def path_in_cache(entry: Published) -> Path:
    """Where a file is, or will be."""
    return cache_folder() / f"{entry.kind}s" / entry.file_name


def known_sha256(entry: Published) -> str | None:
    """Checksum of a file's first arrival; None before it.

    Raises:
        BundleError: the record beside it is damaged.
    """
    path = _record_path(entry)
    if not path.is_file():
        return None
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["sha256"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(f"{path} is damaged; remove it and {path_in_cache(entry).name} beside it") from error


def _record_path(entry: Published) -> Path:
    path = path_in_cache(entry)
    return path.with_name(f"{path.name}.json")


def obtained(entry: Published, fetch: Fetch | None = None) -> Path:
    """The file of published weights, fetched if it is not in the cache yet; a broken transfer is gone on with.

    Args:
        entry: what.
        fetch: how; None takes gdown for Google Drive, and plain HTTP for timm's hub.

    Raises:
        BackendMissing: it is not here and could not be fetched, or what fetches it is not installed.
        BundleError: what is in the cache is not what first arrived, or what arrived is no such weights.
    """
    path = path_in_cache(entry)
    if path.is_file():
        _check_unchanged(entry, path)
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    arriving = path.with_name(f"{entry.name}.download{path.suffix}")
    try:
        (fetch or _fetch)(entry, arriving)
        if not arriving.is_file():  # gdown behind a proxy that does not answer says so on stdout, and returns
            raise OSError("nothing arrived")
    except BackendMissing:
        raise
    except Exception as error:  # of requests, gdown, urllib and the system: no base class is shared
        reason = (" ".join(str(error).split()) or type(error).__name__)[:160]
        raise BackendMissing(
            f"{entry.name} could not be fetched ({reason}); without a network, fetch {entry.address} elsewhere and put "
            f"it at {path}"
        ) from error
    _check_content(entry, arriving)
    record = {"name": entry.name, "source": entry.address, "sha256": sha256_of(arriving), "licence": entry.licence}
    if (known := known_sha256(entry)) is not None and known != record["sha256"]:
        arriving.unlink()
        raise BundleError(f"{entry.address} now gives another file than before (sha256); remove {_record_path(entry)}")
    write_atomically(_record_path(entry), json.dumps(record, indent=2) + "\n")
    arriving.replace(path)
    return path


def _check_unchanged(entry: Published, path: Path) -> None:
    """A file that a person put there has no record yet; it gets one."""
    digest, known = sha256_of(path), known_sha256(entry)
    if known is None:
        _check_content(entry, path)
        record = {"name": entry.name, "source": "put there by hand", "sha256": digest, "licence": entry.licence}
        write_atomically(_record_path(entry), json.dumps(record, indent=2) + "\n")
    elif digest != known:
        raise BundleError(f"{path} differs from what was fetched (sha256); remove it to fetch it again")


def _check_content(entry: Published, path: Path) -> None:
    """Whether it is weights at all: services answer with pages that say why not.

    Raises:
        BundleError: it is none; it is removed, so that the next attempt starts anew.
    """
    from brixel_edge.network.weights import read_adapter, read_state

    try:
        if entry.kind == "adapter":
            read_adapter(path)
        else:
            read_state(path)
    except BundleError as error:
        path.unlink(missing_ok=True)
        raise BundleError(f"{entry.address} gave no weights: {error}") from error


def _fetch(entry: Published, target: Path) -> None:
    """Fetch a file; what a broken transfer left beside `target` is gone on with."""
    if entry.kind == "adapter":
        try:
            import gdown
        except ImportError as error:
            raise BackendMissing(
                f"{entry.name} lies on Google Drive, which needs gdown: pip install 'brixel-edge[weights]'; or fetch "
                f"{entry.address} and put it at {path_in_cache(entry)}"
            ) from error
        gdown.download(id=entry.source, output=str(target), resume=True)
        return
    fetch_file(entry.address, target, entry.name, token=_hub_token())


def _hub_token() -> str | None:
    """The user's, where huggingface_hub is installed and has one; some repositories ask for it."""
    try:
        from huggingface_hub import get_token
    except ImportError:
        return None
    return get_token()


def backbone_file(name: str, weights: str | Path) -> str | Path:
    """Weights of a backbone as a file: `pretrained` is fetched, `built-in` is packaged, all else stays what it is.

    Raises:
        SpecError: none are published under that name.
        BackendMissing, BundleError: as `obtained`.
    """
    if weights == BUILT_IN:
        return built_in_backbone(name)
    if weights != PRETRAINED:
        return weights
    for entry in PUBLISHED:
        if entry.kind == "backbone" and entry.name == name:
            return obtained(entry)
    names = ", ".join(entry.name for entry in PUBLISHED if entry.kind == "backbone")
    raise SpecError(f"no weights of {name} are published; pretrained is for {names}")


def adapter_file(backbone: BackboneSpec, weights: str | Path) -> str | Path:
    """Weights of an adapter as a file: `official` is fetched, `built-in` is packaged, all else stays what it is.

    Raises:
        SpecError: the authors publish none for that backbone.
        BackendMissing, BundleError: as `obtained`.
    """
    if weights in (BUILT_IN, BUILT_IN_VIEW):
        return built_in_adapter(backbone, str(weights))
    if weights != OFFICIAL:
        return weights
    for entry in PUBLISHED:
        if entry.kind == "adapter" and entry.backbone == backbone.timm_name:
            return obtained(entry)
    names = ", ".join(dict.fromkeys(entry.backbone for entry in PUBLISHED if entry.kind == "adapter"))
    raise SpecError(f"the authors publish no adapter for {backbone.timm_name}; official is for {names}")
