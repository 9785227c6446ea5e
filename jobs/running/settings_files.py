"""Settings from YAML files: merged in order, overridden by --set, every mistake named at once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from features.core.errors import SettingsError
from jobs.running.settings import Settings


def load(paths: Sequence[str], overrides: Sequence[str] = ()) -> Settings:
    """Read, merge and validate.

    Args:
        paths: YAML files; a later one wins, mappings are merged key by key.
        overrides: `key.path=value`, the value in YAML.

    Raises:
        SettingsError: every mistake with the key's path, the value and what is allowed.
    """
    try:
        return Settings.model_validate(read(paths, overrides))
    except ValidationError as error:
        raise SettingsError(list(_describe(error))) from None


def read(paths: Sequence[str], overrides: Sequence[str] = ()) -> dict[str, Any]:
    """What the files say together, not validated; see `load`."""
    merged: dict[str, Any] = {}
    for path in paths:
        merged = _merge(merged, _read(Path(path), ()))
    for override in overrides:
        merged = _merge(merged, _parse_override(override))
    return merged


def _read(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise SettingsError([f"{path} extends itself: {' -> '.join(p.name for p in (*seen, path))}"])
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise SettingsError([f"cannot read {path}: {error.strerror}"]) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError([f"{path} is not YAML: {' '.join(str(error).split())}"]) from None
    if not isinstance(content, dict):
        raise SettingsError([f"{path} must hold a mapping of settings, not {type(content).__name__}"])
    parents = content.pop("extends", [])
    merged: dict[str, Any] = {}
    for parent in [parents] if isinstance(parents, str) else parents:
        merged = _merge(merged, _read(path.parent / parent, (*seen, path.resolve())))
    return _merge(merged, content)


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _parse_override(text: str) -> dict[str, Any]:
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise SettingsError([f"--set {text!r}: write it as key.path=value"])
    try:
        tree: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        raise SettingsError([f"--set {text!r}: {value!r} is not YAML"]) from None
    for key in reversed(path.split(".")):
        tree = {key: tree}
    return dict(tree)


def _describe(error: ValidationError) -> Iterator[str]:
    for mistake in error.errors(include_url=False):
        where = ".".join(str(part) for part in mistake["loc"]) or "settings"
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            yield f"{where}: unknown key; remove it or mend its spelling"
        elif mistake["type"] in ("missing", "value_error"):
            yield f"{where}: {message}"
        else:
            yield f"{where}: {message}, got {mistake['input']!r}"
