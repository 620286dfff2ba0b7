"""The house as its imports build it: floors from the ground up, each room's imports. Run it for the map.

python tests/house.py
"""

from __future__ import annotations

import ast
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "brixel_edge"
WINGS = ("export", "runtimes", "calib")  # folders at the top level that are installed inside the package

# From the ground up; a floor may import those before it. Rooms of one floor do not know each other.
FLOORS: tuple[tuple[str, ...], ...] = (
    ("errors",),
    ("machine",),
    ("model",),
    ("image", "network"),
    ("proof", "training"),
    ("runtimes", "export"),
    ("calib",),
    ("evaluation",),
    (PACKAGE,),  # its __init__, which lends the public names
    ("commands",),
)


@dataclass(frozen=True, kw_only=True)
class Import:
    """One import of a module of the package by another; `line` is where it stands."""

    importer: str
    imported: str
    line: int


def package_folders() -> dict[str, Path]:
    """Where each installed package's sources lie, relative to the root, as setuptools finds it."""
    import tomllib

    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders: dict[str, Path] = {}
    for package in setuptools["packages"]:
        # the longest entry of package-dir, then subfolders
        root = max((name for name in setuptools["package-dir"] if f"{package}.".startswith(f"{name}.")), key=len)
        folders[package] = Path(setuptools["package-dir"][root], *package.removeprefix(root).split(".")[1:])
    return folders


def sources(root: Path = ROOT) -> dict[str, Path]:
    """Every module of the package by its name."""
    found: dict[str, Path] = {}
    for folder in (PACKAGE, *WINGS):
        for path in sorted((root / folder).rglob("*.py")):
            parts = path.relative_to(root).with_suffix("").parts
            parts = parts if folder == PACKAGE else (PACKAGE, *parts)
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(modules: dict[str, Path]) -> list[Import]:
    """Every import among the modules, those inside functions and under TYPE_CHECKING too."""
    return [
        Import(importer=name, imported=target, line=line)
        for name, path in modules.items()
        for target, line in _imported(path, modules)
        if target != name
    ]


def _imported(path: Path, modules: dict[str, Path]) -> list[tuple[str, int]]:
    found: list[tuple[str, int]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in modules:
            names = [node.value]  # importlib.import_module by name
        else:
            continue
        found += [(target, node.lineno) for name in names if (target := _module_of(name, modules))]
    return found


def _module_of(name: str, modules: dict[str, Path]) -> str | None:
    """The module behind `module` or `module.attribute`."""
    if name in modules:
        return name
    parent = name.rpartition(".")[0]
    return parent if parent in modules else None


def room(module: str) -> str:
    """The folder (or file) right under the package that a module is in; the package itself for its __init__."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else PACKAGE


def floor_of(name: str) -> int:
    """How high a room lies.

    Raises:
        KeyError: it has no place in `FLOORS`.
    """
    for height, rooms in enumerate(FLOORS):
        if name in rooms:
            return height
    raise KeyError(f"{name} has no floor; give it one in FLOORS")


def upward(found: list[Import]) -> list[Import]:
    """Imports that break the rule: of a higher floor, or of another room of the same one."""
    return [
        entry
        for entry in found
        if room(entry.importer) != room(entry.imported)
        and floor_of(room(entry.imported)) >= floor_of(room(entry.importer))
    ]


def chamber(module: str, modules: dict[str, Path]) -> str:
    """The innermost folder that a module is in; a module right in its room is a chamber of its own."""
    parts = module.split(".")
    has_modules_inside = any(other.startswith(f"{module}.") for other in modules)
    return module if len(parts) <= 3 or has_modules_inside else ".".join(parts[:-1])


def circles(edges: list[tuple[str, str]]) -> list[list[str]]:
    """Groups of nodes that reach each other (strongly connected, by Kosaraju)."""
    following: dict[str, set[str]] = defaultdict(set)
    leading: dict[str, set[str]] = defaultdict(set)
    for start, end in edges:
        following[start].add(end)
        leading[end].add(start)
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: str, neighbours: dict[str, set[str]], out: list[str]) -> None:
        seen.add(node)
        for other in sorted(neighbours[node]):
            if other not in seen:
                visit(other, neighbours, out)
        out.append(node)

    for node in sorted({node for edge in edges for node in edge}):
        if node not in seen:
            visit(node, following, order)
    seen.clear()
    groups: list[list[str]] = []
    for node in reversed(order):
        if node not in seen:
            group: list[str] = []
            visit(node, leading, group)
            groups.append(sorted(group))
    return [group for group in groups if len(group) > 1]


def house_map(modules: dict[str, Path], found: list[Import]) -> str:
    """Floors from the top down, each room with its modules, lines, and the rooms that it imports with how often."""
    arrows: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for entry in found:
        if room(entry.importer) != room(entry.imported):
            arrows[room(entry.importer)][room(entry.imported)] += 1
    lines: list[str] = []
    for height, rooms in reversed(list(enumerate(FLOORS))):
        for name in rooms:
            own = [module for module in modules if room(module) == name]
            size = sum(len(modules[module].read_text(encoding="utf-8").splitlines()) for module in own)
            targets = ", ".join(
                f"{target} {count}"
                for target, count in sorted(arrows[name].items(), key=lambda item: (-floor_of(item[0]), item[0]))
            )
            lines.append(
                f"{height}  {name:<9}{len(own):>3} modules {size:>6} lines" + f"  -> {targets}" * bool(targets)
            )
    return "\n".join(lines)


if __name__ == "__main__":
    known = sources()
    print(house_map(known, imports(known)))
    for entry in upward(imports(known)):
        print(f"UPWARD  {entry.importer}:{entry.line} imports {entry.imported}")
    sys.exit(bool(upward(imports(known))))
