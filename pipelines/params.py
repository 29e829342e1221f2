"""The params file: YAML and ``section.field=value`` overrides to a validated PipelineConfig, and back."""

import difflib
import json
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, TypeAlias, Union, get_args, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails, PydanticUndefined, to_jsonable_python

from training.config import PipelineConfig, Section
from training.errors import TemperError

MAX_FAULTS = 10
MAX_SHOWN = 60
LINE_WIDTH = 100

Keys: TypeAlias = tuple[str, ...]
Location: TypeAlias = tuple[int | str, ...]

# What a value must do, and how to mend it, by pydantic's type of error.
_TEXT = ("be text", "put it in quotes")
_WHOLE = ("be a whole number", "write one such as 1")
_DECIMAL = ("be a number", "write a decimal such as 0.1 or a fraction such as 8/255")
_SWITCH = ("be true or false", "write true or false")
_MAPPING = ("be a mapping", "write it as {field: value}")
_LIST = ("be a list", "write it as [first, second]")
_FAULTS = {
    "string_type": _TEXT,
    "int_type": _WHOLE,
    "int_parsing": _WHOLE,
    "int_from_float": _WHOLE,
    "int_parsing_size": ("have fewer digits", "write a smaller number"),
    "float_type": _DECIMAL,
    "float_parsing": _DECIMAL,
    "finite_number": ("be a finite number", "write neither .nan nor .inf"),
    "bool_type": _SWITCH,
    "bool_parsing": _SWITCH,
    "dict_type": _MAPPING,
    "model_type": _MAPPING,
    "model_attributes_type": _MAPPING,
    "tuple_type": _LIST,
    "greater_than": ("be above {gt}", "raise it"),
    "greater_than_equal": ("be at least {ge}", "raise it"),
    "less_than": ("be below {lt}", "lower it"),
    "less_than_equal": ("be at most {le}", "lower it"),
    "too_short": ("hold at least {min_length}", "add what is missing"),
    "invalid_key": ("have a name of text", "put the name in quotes"),
    "too_long": ("hold at most {max_length}", "remove the rest"),
    "string_too_short": ("not be empty", "write a name"),
    "string_pattern_mismatch": ("match the pattern {pattern}", "change it to fit"),
}
_OTHER = ("be acceptable ({msg})", "correct it")


def load_params(path: Path, overrides: Sequence[str] = ()) -> PipelineConfig:
    """Read the YAML file at ``path``, apply ``section.field=value`` overrides in order, and validate.

    Raises:
        TemperError: a file or override that cannot be read, or a line for each fault of validation.
    """
    data: object = _read_file(path)
    for override in overrides:
        keys, value = _parse_override(override)
        data = _assign(data, PipelineConfig, (), keys, value)
    return validate_params(data)


def validate_params(data: object) -> PipelineConfig:
    """Validate plain data, from YAML or JSON.

    Raises:
        TemperError: a line for each fault, sorted, naming the field as the user writes it.
    """
    try:
        return PipelineConfig.model_validate(data)
    except ValidationError as error:
        raise TemperError(_explain(error)) from error


def dump_params(config: PipelineConfig) -> str:
    """Return the complete configuration as YAML in schema order; load_params reads it back exactly."""
    data = config.model_dump(mode="json")
    return yaml.dump(
        data, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=LINE_WIDTH, allow_unicode=True
    )


# --- YAML -----------------------------------------------------------------------------------------


class _Loader(yaml.SafeLoader):
    """What yaml.safe_load uses, but a key given twice is an error and 1e-3 a number, as in YAML 1.2."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:  # noqa: FBT001, FBT002 - PyYAML's own signature
        # Duplicates are looked for before merge keys (<<) are expanded: those may be overridden.
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(
                    problem=f"{key.value!r} is given twice", problem_mark=key.start_mark, note="keep one"
                )
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """What yaml.safe_dump uses, but without anchors; text that _Loader would take for a number is quoted."""

    def ignore_aliases(self, data: object) -> bool:  # noqa: ARG002 - PyYAML's own signature
        return True


for _kind in (_Loader, _Dumper):
    _kind.add_implicit_resolver(
        "tag:yaml.org,2002:float",
        re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"),
        list("-+.0123456789"),
    )


def _read_file(path: Path) -> Mapping[object, object]:
    name = str(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise _refusal(name, "no such file; give the path of a params file") from error
    except UnicodeDecodeError as error:
        raise _refusal(name, "not UTF-8 text; save it as UTF-8") from error
    except OSError as error:
        raise _refusal(name, f"cannot be read ({error.strerror}); give a readable params file") from error
    data = _parse_yaml(text, name)
    if data is None:
        raise _refusal(name, "empty; write at least one section, such as 'seed: 0'")
    if not isinstance(data, dict):
        raise _refusal(name, f"must be a mapping of sections, got {_show(data)}; write 'section: ...'")
    return data


def _parse_yaml(text: str, name: str) -> object:
    loader = None
    try:
        loader = _Loader(text)
        return loader.get_single_data()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        reason = f"{error.problem or error.context}; {error.note or 'correct or quote it'}"
        raise _refusal(name, f"{line}not readable as YAML: {reason}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise _refusal(name, f"not readable as YAML: {reason}; correct or quote it") from error
    finally:
        if loader is not None:
            loader.dispose()


# --- overrides ------------------------------------------------------------------------------------


def _parse_override(override: str) -> tuple[Keys, object]:
    key, equals, text = override.partition("=")
    keys = tuple(part.strip() for part in key.split("."))
    if not equals:
        raise _refusal(_show(override), "an override without '='; write section.field=value")
    if not all(keys):
        raise _refusal(_show(override), "a part of the field's name is empty; write section.field=value")
    if not text.strip():
        raise _refusal(_dotted(keys), "no value after '='; write null for none, '' for empty text")
    return keys, _parse_yaml(text, _dotted(keys))


def _assign(node: object, kind: object, path: Keys, rest: Keys, new: object) -> object:
    """Return ``node``, of schema type ``kind`` and reached by ``path``, with ``new`` at ``rest`` below it.

    Nothing is changed in place: YAML aliases let one object stand in several places.
    """
    if not rest:
        return new
    if isinstance(node, list):
        return _assign_item(node, kind, path, rest, new)
    if isinstance(node, dict):
        return _assign_field(node, kind, path, rest, new)
    above = _dotted(path)
    raise _refusal((*path, rest[0]), f"{above} is {_show(node)} and has no fields; set {above} itself")


def _assign_item(node: list[object], kind: object, path: Keys, rest: Keys, new: object) -> object:
    position, here = rest[0], (*path, rest[0])
    if not (position.isdecimal() and int(position) < len(node)):
        above = _dotted(path)
        raise _refusal(
            here,
            f"no such position: {above} has length {len(node)}, counted from 0; to add, set {above} whole",
        )
    index = int(position)
    item = _assign(node[index], _child(kind, index), here, rest[1:], new)
    return [*node[:index], item, *node[index + 1 :]]


def _assign_field(node: dict[str, object], kind: object, path: Keys, rest: Keys, new: object) -> object:
    key, here = rest[0], (*path, rest[0])
    tags = _tags(kind)
    if tags and rest == ("name",):
        return _choose(node, tags, path, new)
    model = _chosen(node, tags, path) if tags else _section(kind)
    if model is not None and key not in model.model_fields:
        raise _refusal(here, _unknown_field(path, key, model))
    inner = _child(model or kind, key)
    below = node.get(key)
    if below is None and model is not None and len(rest) > 1:
        below = _default(model, key, inner)
    return {**node, key: _assign(below, inner, here, rest[1:], new)}


def _choose(node: dict[str, object], tags: Mapping[str, object], path: Keys, name: object) -> object:
    """Set the name of an alternative; one of another name starts from its own defaults."""
    if name not in list(tags):
        raise _refusal((*path, "name"), _unknown(name, list(tags)))
    return {**node, "name": name} if node.get("name") in (None, name) else {"name": name}


def _chosen(node: dict[str, object], tags: Mapping[str, type[Section]], path: Keys) -> type[Section]:
    name = node.get("name")
    if name is None:
        raise _refusal((*path, "name"), f"missing; set it first, to one of {', '.join(tags)}")
    if not isinstance(name, str) or name not in tags:
        raise _refusal((*path, "name"), _unknown(name, list(tags)))
    return tags[name]


def _default(model: type[Section], key: str, kind: object) -> object:
    """Return the schema's default as plain data; where it has none, an empty container to fill."""
    value = model.model_fields[key].get_default(call_default_factory=True)
    if value is not None and value is not PydanticUndefined:
        return to_jsonable_python(value)
    if any(get_origin(option) is tuple for option in _options(kind)):
        return []
    return {} if _is_container(kind) else None


# --- the schema's types ---------------------------------------------------------------------------


def _options(kind: object) -> list[object]:
    """Return the alternatives of a type, without Annotated and None."""
    if get_origin(kind) is Annotated:
        return _options(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [option for part in get_args(kind) for option in _options(part)]
    return [] if kind in (None, NoneType) else [kind]


def _sections(kind: object) -> list[type[Section]]:
    return [option for option in _options(kind) if isinstance(option, type) and issubclass(option, Section)]


def _section(kind: object) -> type[Section] | None:
    sections = _sections(kind)
    return sections[0] if len(sections) == 1 else None


def _tags(kind: object) -> dict[str, type[Section]]:
    """Return the alternatives of a discriminated union by name; of anything else, none."""
    sections = _sections(kind)
    if len(sections) == 1:
        return {}
    return {get_args(section.model_fields["name"].annotation)[0]: section for section in sections}


def _is_container(kind: object) -> bool:
    origins = {get_origin(option) for option in _options(kind)}
    return bool(_sections(kind) or origins & {dict, tuple})


def _child(kind: object, key: int | str) -> object:
    """Return the type below ``key``, or None where the schema has nothing there."""
    section = _section(kind)
    if section is not None:
        field = section.model_fields.get(str(key))
        return field.annotation if field else None
    for option in _options(kind):
        arguments = get_args(option)
        if get_origin(option) is dict:
            return arguments[1]
        if get_origin(option) is tuple:
            position = 0 if Ellipsis in arguments else key
            return next((argument for index, argument in enumerate(arguments) if index == position), None)
    return None


# --- messages -------------------------------------------------------------------------------------


def _refusal(where: str | Location, what: str) -> TemperError:
    return TemperError(f"{where if isinstance(where, str) else _dotted(where)}: {what}")


def _explain(error: ValidationError) -> str:
    faults: dict[str, list[ErrorDetails]] = {}
    for fault in error.errors(include_url=False):
        # pydantic counts only the valid items: a tuple whose items are all at fault is "too short" as well.
        if fault["type"] == "too_short" and len(fault["input"]) >= fault["ctx"]["min_length"]:
            continue
        faults.setdefault(_path(fault), []).append(fault)
    lines = sorted(f"{path or 'params'}: {_describe(found)}" for path, found in faults.items())
    hidden = len(lines) - MAX_FAULTS
    return "\n".join([*lines[:MAX_FAULTS], *([f"and {hidden} more"] if hidden > 0 else [])])


def _path(fault: ErrorDetails) -> str:
    keys, _ = _locate(fault["loc"])
    return _dotted((*keys, "name") if fault["type"].startswith("union_tag_") else keys)


def _locate(location: Location) -> tuple[Location, object]:
    """Return pydantic's location as the user writes it, without union tags, and the type that is there."""
    kind: object = PipelineConfig
    keys: list[int | str] = []
    for part in location:
        tags = _tags(kind)
        if tags:
            kind = tags.get(str(part))
        elif _is_container(kind):
            keys.append(part)
            kind = _child(kind, part)
    return tuple(keys), kind


def _describe(faults: Sequence[ErrorDetails]) -> str:
    """Say what is wrong at one place; it has several faults only where every type of a union failed."""
    fault = faults[0]
    keys, kind = _locate(fault["loc"])
    match fault["type"]:
        case "missing":
            what = "missing; add it"
        case "extra_forbidden":
            model = _section(_locate(fault["loc"][:-1])[1]) or PipelineConfig
            what = _unknown_field(keys[:-1], str(keys[-1]), model)
        case "union_tag_not_found":
            what = f"missing; write one of {', '.join(_tags(kind))}"
        case "union_tag_invalid":
            what = _unknown(fault["input"]["name"], list(_tags(kind)))
        case "value_error":
            what = str(fault["ctx"]["error"])
        case "literal_error":
            what = _unknown(fault["input"], _choices(kind))
        case _:
            what = _requirement(faults)
    return what


def _requirement(faults: Sequence[ErrorDetails]) -> str:
    rules = dict.fromkeys(_FAULTS.get(fault["type"], _OTHER) for fault in faults)
    context = {"msg": faults[0]["msg"], **faults[0].get("ctx", {})}
    must = " or ".join(rule.format_map(context) for rule, _ in rules)
    mend = next(iter(rules))[1] if len(rules) == 1 else "write one of these"
    return f"must {must}, got {_show(faults[0]['input'])}; {mend}"


def _unknown_field(path: Location, key: str, model: type[Section]) -> str:
    near = _nearest(key, model.model_fields)
    if near:
        return f"unknown field; did you mean {_dotted((*path, near))}?"
    return f"unknown field; the fields here are {', '.join(model.model_fields)}"


def _choices(kind: object) -> list[object]:
    return [
        choice for option in _options(kind) if get_origin(option) is Literal for choice in get_args(option)
    ]


def _unknown(value: object, choices: Sequence[object]) -> str:
    names = [str(choice) for choice in choices]
    near = _nearest(str(value), names)
    question = f"did you mean {near}?" if near else "write one of these"
    return f"must be one of {', '.join(names)}, got {_show(value)}; {question}"


def _nearest(word: str, names: Iterable[str]) -> str | None:
    by_lower = {name.lower(): name for name in names}
    found = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return by_lower[found[0]] if found else None


def _dotted(keys: Iterable[int | str]) -> str:
    """Join keys with dots; a key that no field could have is quoted, so that it keeps to one line."""
    return ".".join(key if re.fullmatch(r"[\w-]+", key) else json.dumps(key) for key in map(str, keys))


def _show(value: object) -> str:
    """Return a value as it stands in YAML, on one line and cut short; of a container, only its size."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {'mapping' if isinstance(value, dict) else 'list'} of {len(value)}"
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
