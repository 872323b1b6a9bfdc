"""What all sections of a recipe share: frozen, strict, and honest about what the user wrote and what is a default."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import BaseModel, ConfigDict


class InputPath:
    """Marks a text field that may name a local file or folder (`Annotated[str, InputPath()]`)."""


class Section(BaseModel):
    """A part of a recipe: immutable, no unknown fields, no silent conversion of one type into another."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    def given(self) -> dict[str, Any]:
        """Only what the user wrote, as plain data."""
        return {name: _given(getattr(self, name)) for name in type(self).model_fields if name in self.model_fields_set}

    def resolved(self) -> dict[str, Any]:
        """Every value that is used: what the user wrote, alignkit's defaults, upstream's defaults."""
        return {name: plain(value) for name, value in self}


def plain(value: Any) -> Any:
    """A value with the sections in it as mappings of all their values."""
    if isinstance(value, Section):
        return value.resolved()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _given(value: Any) -> Any:
    if isinstance(value, Section):
        return value.given()
    return [_given(item) for item in value] if isinstance(value, list) else value


class UpstreamSection(Section):
    """A section with the fields of an upstream class; `upstream.section_class` adds them to a subclass of this.

    The fields that a subclass itself declares are alignkit's own: they are not passed on upstream.
    """

    upstream_name: ClassVar[str] = ""
    """The upstream class, as the snapshot names it."""
    upstream_fields: ClassVar[frozenset[str]] = frozenset()
    """The names of the fields that are upstream's."""
    upstream_defaults: ClassVar[dict[str, Any]] = {}
    """Upstream's defaults, of the version the snapshot was taken from."""
    nested_configs: ClassVar[dict[str, str]] = {}
    """Fields that hold another upstream config, which upstream takes as an object only -> that config's class."""
    refused_fields: ClassVar[dict[str, str]] = {}
    """Further fields of upstream's that a recipe gives elsewhere -> where."""

    if TYPE_CHECKING:  # the fields are made from the snapshot, where mypy can't see them

        def __getattr__(self, name: str) -> Any: ...

    def resolved(self) -> dict[str, Any]:
        """Every value that is used; of a config that stands in a field (peft's `eva_config`) only what was given."""
        return {name: value.given() if isinstance(value, UpstreamSection) else plain(value) for name, value in self}

    def changed_defaults(self) -> dict[str, Any]:
        """The defaults in which alignkit differs from upstream (docs/defaults.md), where the user wrote nothing."""
        return {
            name: value
            for name, value in self.resolved().items()
            if name in self.upstream_fields
            and name not in self.model_fields_set
            and value != self.upstream_defaults.get(name)
        }

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments for the upstream class: what the user wrote and the defaults in which alignkit differs.

        alignkit's own fields are left out, and so is whatever the installed version would choose by itself.
        """
        # A null, or an empty config, that is upstream's default says nothing; a run's own recipe.yaml is full of them.
        given = {
            name: value
            for name, value in self.given().items()
            if name in self.upstream_fields and not (value in (None, {}) and not self.upstream_defaults.get(name))
        }
        return {**self.changed_defaults(), **given}

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by value and upstream's name: the class itself is made on demand in each process."""
        base = next(cls for cls in type(self).__mro__[1:] if not cls.__dict__.get("upstream_name"))
        return _rebuild, (type(self).upstream_name, base, self.given())


def _rebuild(name: str, base: type[UpstreamSection], given: dict[str, Any]) -> UpstreamSection:
    from alignkit.recipe.upstream import section_class

    return section_class(name, base).model_validate(given)
