"""Frozen dataclasses as plain JSON values and back, checked against their own annotations.

A class says its form once, by its fields; a class with `to_json` and `from_json` of its own is asked instead. Fields
that default to None are left out where they are None. Nothing is converted: text is no number, and a name that no field
has is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import types
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from brixel_edge.errors import BundleError

T = TypeVar("T")

_SCALARS: dict[Any, tuple[type, ...]] = {float: (int, float), int: (int,), str: (str,), bool: (bool,)}


def fields_to_json(instance: Any) -> dict[str, Any]:
    """A dataclass field by field, in their order."""
    values = {field: getattr(instance, field.name) for field in dataclasses.fields(instance)}
    return {f.name: _plain(value) for f, value in values.items() if value is not None or f.default is not None}


def _plain(value: Any) -> Any:
    if hasattr(value, "to_json"):
        return value.to_json()
    if dataclasses.is_dataclass(value):
        return fields_to_json(value)
    if isinstance(value, dict):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(entry) for entry in value]
    return str(value) if isinstance(value, Path) else value


def fields_from_json(kind: type[T], record: object, where: str = "") -> T:
    """Build a dataclass from what `fields_to_json` wrote.

    Args:
        kind: the class.
        record: a JSON object.
        where: the place of the record, for messages, for instance `parity.graph.fp32.onnx`.

    Raises:
        BundleError: a field is missing, unknown or of another type.
    """
    if not isinstance(record, dict):
        raise BundleError(f"{where or kind.__name__} is {_shown(record)} and no object")
    hints, fields = _hints(kind), {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]  # a dataclass, whatever T is
    prefix = f"{where}." if where else ""
    if unknown := record.keys() - fields.keys():
        raise BundleError(f"{prefix}{min(unknown)} is not known")
    missing = {name for name, field in fields.items() if name not in record and _is_required(field)}
    if missing:
        raise BundleError(f"{prefix}{min(missing)} is missing")
    return kind(**{name: _read(hints[name], value, f"{prefix}{name}") for name, value in record.items()})


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _read(kind: Any, value: Any, where: str) -> Any:
    """One value as what its annotation says."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _read_union(arguments, value, where)
    if origin is tuple and isinstance(value, list):
        if arguments[-1] is not Ellipsis and len(arguments) != len(value):
            raise BundleError(f"{where} has {len(value)} entries and not {len(arguments)}")
        return tuple(_read(arguments[0], entry, f"{where}[{index}]") for index, entry in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {key: _read(arguments[1], entry, f"{where}.{key}") for key, entry in value.items()}
    if hasattr(kind, "from_json"):
        return kind.from_json(value)
    if dataclasses.is_dataclass(kind):
        return fields_from_json(kind, value, where)  # type: ignore[arg-type]  # is_dataclass speaks of instances too
    return _read_scalar(kind, value, where)


def _read_scalar(kind: Any, value: Any, where: str) -> Any:
    if kind is object or (get_origin(kind) is Literal and value in get_args(kind)):
        return value
    if kind is Path and isinstance(value, str):
        return Path(value)
    if kind in _SCALARS and isinstance(value, _SCALARS[kind]) and isinstance(value, bool) == (kind is bool):
        return value
    raise BundleError(f"{where} is {_shown(value)} and not {_name(kind)}")


def _read_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and types.NoneType in kinds:
        return None
    *others, last = [kind for kind in kinds if kind is not types.NoneType]
    for kind in others:
        try:
            return _read(kind, value, where)
        except BundleError:
            continue
    return _read(last, value, where)


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return f"one of {', '.join(map(str, get_args(kind)))}"
    return {float: "a number", int: "an integer", str: "text", bool: "true or false", tuple: "a list"}.get(
        get_origin(kind) or kind, "an object"
    )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."
