"""The page of all settings, docs/settings.md: every key with its meaning, allowed values and default."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from features.core.strict import NAME
from jobs.running.settings import Settings
from training.models import REGISTRY, parameters_class

Schema = Mapping[str, Any]
"""A JSON schema, or a part of one, as pydantic writes it."""

REQUIRED = "required"
_HEADERS = ("key", "meaning", "allowed values", "default")
_ABSENT = object()
_EMPTY: dict[str, Any] = {"array": [], "object": {}}
_KINDS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "`true` or `false`",
    "null": "`null`",
}
_BOUNDS = {
    "minimum": "{} or more",
    "exclusiveMinimum": "above {}",
    "maximum": "at most {}",
    "exclusiveMaximum": "below {}",
    "pattern": "matching `{}`",
    "minItems": "{} or more items",
}
_KNOWN = {"model.name": ", ".join(f"`{name}`" for name in REGISTRY)}
"""Allowed values that a validator checks, which no JSON schema tells."""


def settings_page(base: Mapping[str, Any]) -> str:
    """The settings as a Markdown page.

    Args:
        base: the content of conf/base.yaml, whose values are the defaults.

    Raises:
        ValueError: a setting without a description; all of them are named.
    """
    schema = Settings.model_json_schema()
    sections = [
        "# Settings\n\nWritten by `make docs` from the settings classes. A key is the path in a YAML file and in "
        "`--set`. A default is the value in `conf/base.yaml`, or else that of the class; a required key has none. "
        "`NAME` stands for a name of your own, `[]` for each item of a list. `conf/local.yaml` and `conf/cluster.yaml` "
        "set what depends on the machine.\n"
    ]
    for name, part in schema["properties"].items():
        group = _resolved(part, schema["$defs"])
        about = group.get("description", "") if "properties" in group else "A setting of its own."
        rows = _rows(name, part, schema["$defs"], base.get(name, _ABSENT), name in schema["required"])
        sections.append(_section(name, about, rows))
    for model in REGISTRY:
        rows = _parameters(model)
        sections.append(_section(f"model.parameters of {model}", f"With `model: {{name: {model}}}`.", rows))
    return "\n".join(sections)


def _section(title: str, about: str, rows: Iterator[tuple[str, ...]]) -> str:
    found = list(rows)
    silent = [key for key, meaning, *_ in found if not meaning]
    if silent:
        raise ValueError(f"settings without a description: {silent}")
    cells = [[cell.replace("|", "\\|") for cell in row] for row in found]
    table = tabulate(cells, _HEADERS, tablefmt="github", stralign=None, disable_numparse=True)
    return f"## {title}\n{_first_paragraph(about)}\n\n{table}\n"


def _parameters(model: str) -> Iterator[tuple[str, ...]]:
    schema = parameters_class(model).model_json_schema()
    for name, part in schema["properties"].items():
        yield from _rows(f"model.parameters.{name}", part, schema.get("$defs", {}), _ABSENT, False)


def _rows(key: str, part: Schema, named: Schema, value: Any, required: bool) -> Iterator[tuple[str, ...]]:
    """A row for the key, unless it only groups others, and rows for the keys below it."""
    whole = _resolved(part, named)
    if "properties" in whole:
        for name, below in whole["properties"].items():
            inner = value.get(name, _ABSENT) if isinstance(value, Mapping) else _ABSENT
            yield from _rows(f"{key}.{name}", below, named, inner, name in whole.get("required", ()))
        return
    unset = _ABSENT if required else part.get("default", _EMPTY.get(str(whole.get("type"))))
    default = unset if value is _ABSENT else value
    meaning = _first_paragraph(part.get("description", "") or _about_items(part, named))
    yield f"`{key}`", meaning, _KNOWN.get(key) or _allowed(part, named), _shown(default)
    for suffix, below in _nested(part, named):
        yield from _rows(f"{key}{suffix}", below, named, _ABSENT, True)


def _nested(part: Schema, named: Schema) -> Iterator[tuple[str, Schema]]:
    """Schemas of classes inside a list, a mapping or an alternative, with what their keys begin with."""
    inner = [("", choice) for choice in part.get("anyOf", ())]
    inner += [("[]", part["items"])] if "items" in part else []
    inner += [(".NAME", choice) for choice in _mapped(part)]
    yield from ((suffix, choice) for suffix, choice in inner if "properties" in _resolved(choice, named))


def _mapped(part: Schema) -> list[Schema]:
    """Schemas of the values of a mapping with free names."""
    values = [*part.get("patternProperties", {}).values(), part.get("additionalProperties")]
    return [value for value in values if isinstance(value, Mapping)]


def _about_items(part: Schema, named: Schema) -> str:
    return next((str(_resolved(below, named).get("description", "")) for _, below in _nested(part, named)), "")


def _allowed(part: Schema, named: Schema) -> str:
    """What a value may be, in words."""
    whole = _resolved(part, named)
    if "anyOf" in whole:
        return "; or ".join(_allowed(choice, named) for choice in _choices(whole["anyOf"]))
    if "enum" in whole:
        return ", ".join(f"`{choice}`" for choice in whole["enum"])
    if whole.get("pattern") == NAME:
        return "name: small letters, digits and `_`"
    if "prefixItems" in whole:
        return "list of " + " and ".join(_allowed(item, named) for item in whole["prefixItems"])
    bounds = [form.format(_number(whole[name])) for name, form in _BOUNDS.items() if name in whole]
    if "minimum" in whole and "maximum" in whole:
        bounds[:2] = [f"{_number(whole['minimum'])} to {_number(whole['maximum'])}"]
    return ("; " if "items" in whole else ", ").join([_kind(whole, named), *bounds])


def _choices(choices: Sequence[Schema]) -> list[Schema]:
    """The alternatives, without the text that stands for a decimal number."""
    kinds = [choice.get("type") for choice in choices]
    decimal = "number" in kinds and "integer" not in kinds
    return [choice for choice in choices if not (decimal and choice.get("type") == "string")]


def _kind(whole: Schema, named: Schema) -> str:
    kind = str(whole.get("format", whole["type"]))
    if kind == "array":
        return f"list; each item: {_allowed(whole['items'], named)}"
    return (
        _allowed_mapping(whole, named) if kind == "object" else _KINDS.get(kind, "`null`" if kind == "null" else kind)
    )


def _allowed_mapping(whole: Schema, named: Schema) -> str:
    if "properties" in whole:
        return "the keys below"
    names = whole.get("propertyNames", {}).get("enum", [])
    keys = ", ".join(f"`{name}`" for name in names) or "names"
    values = " or ".join(_allowed(value, named) for value in _mapped(whole))
    return f"mapping of {keys} to: {values}"


def _shown(value: Any) -> str:
    """A default as it would stand in YAML."""
    if value is _ABSENT:
        return REQUIRED
    if isinstance(value, Mapping) and value:
        return "see `conf/base.yaml`"
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value, ensure_ascii=False)}`"


def _number(value: Any) -> str:
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if value == int(value) else f"{value:g}"


def _resolved(part: Schema, named: Schema) -> Schema:
    """The class that a part refers to, also where null is allowed beside it."""
    alone = [choice for choice in part.get("anyOf", ()) if choice.get("type") != "null"]
    if len(alone) == 1 and "$ref" in alone[0]:
        part = alone[0]
    return named[part["$ref"].rpartition("/")[2]] if "$ref" in part else part


def _first_paragraph(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split())
