"""brixel-weights: published adapters and backbones, fetched into a cache folder."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from brixel_edge.commands.command import add_common_arguments, require_packages, run_command
from brixel_edge.errors import SpecError

PROGRAM = "brixel-weights"
EPILOG = """\
The cache is the folder that BRIXEL_CACHE names, or ~/.cache/brixel-edge. `--adapter-weights official` and
`--backbone-weights pretrained` of the other commands fetch what they need into it, and use what is there.

examples:
  brixel-weights list
  brixel-weights get adapter-vits16
  brixel-export --backbone vit_small_patch16_dinov3 --backbone-weights pretrained --adapter-weights official
"""


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        usage="%(prog)s list | get NAME [--json] [--debug]",
        description="List or fetch the authors' adapters and timm's backbones.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=("list", "get"), help="what to do")
    parser.add_argument("name", metavar="NAME", nargs="?", help="of `list`")
    add_common_arguments(parser)
    return parser


def listed() -> tuple[dict[str, Any], str]:
    """All there is, with what is known of it here."""
    from brixel_edge.network.official_weights import PUBLISHED, cache_folder, known_sha256, path_in_cache

    records = [
        {
            "name": entry.name,
            "kind": entry.kind,
            "backbone": entry.backbone,
            "megabytes": entry.megabytes,
            "licence": entry.licence,
            "source": entry.address,
            "sha256": known_sha256(entry),
            "path": str(path) if (path := path_in_cache(entry)).is_file() else None,
        }
        for entry in PUBLISHED
    ]
    lines = [f"{'name':<31}{'MB':>7}  {'licence':<26}{'sha256':<14}here"]
    for record in records:
        digest = record["sha256"][:12] if record["sha256"] else "not known"
        here = "yes" if record["path"] else "no"
        lines.append(f"{record['name']:<31}{record['megabytes']:>7}  {record['licence']:<26}{digest:<14}{here}")
    lines.append(f"cache: {cache_folder()}")
    return {"cache": str(cache_folder()), "weights": records}, "\n".join(lines)


def fetched(name: str) -> tuple[dict[str, Any], str]:
    """Fetch one.

    Raises:
        SpecError: no such name.
        BackendMissing: it cannot be fetched from here.
        BundleError: it is not what it should be.
    """
    from brixel_edge.network.official_weights import known_sha256, obtained, published

    entry = published(name)
    require_packages(f"{PROGRAM} get", "weights", "torch")
    print(f"{entry.name}, about {entry.megabytes} MB, licence {entry.licence}", file=sys.stderr)
    path = obtained(entry)
    record = {"name": name, "path": str(path), "sha256": known_sha256(entry), "licence": entry.licence}
    return record, f"{path}\nsha256 {record['sha256']}"


def main(argv: list[str] | None = None) -> int:
    """Entry point of brixel-weights."""

    def command(arguments: argparse.Namespace) -> tuple[dict[str, Any], str]:
        if (arguments.action == "get") != (arguments.name is not None):
            raise SpecError("brixel-weights get NAME fetches one; brixel-weights list names them all")
        return listed() if arguments.action == "list" else fetched(arguments.name)

    return run_command(build_parser(), command, argv)


if __name__ == "__main__":
    sys.exit(main())
