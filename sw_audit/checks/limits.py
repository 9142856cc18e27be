"""What the limits of all checks have in common, and the limits of every check together, as a policy holds them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, TypeVar

from pydantic import (
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    SerializationInfo,
    SerializeAsAny,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import InitErrorDetails, PydanticCustomError, PydanticUndefined

from sw_audit.checks import registry
from sw_audit.fact import Fact
from sw_audit.policy.model_policy import Level

Ratio = Annotated[float, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Nonnegative = Annotated[float, Field(ge=0)]


class Limits(Fact):
    """What every check has: a switch, and a level.

    Attributes:
        enabled: Whether the check is run.
        level: `gate`: the run fails where the check fails. `law`: it is only told whether the claim holds. By
            default what the check is; laws are gates too under `laws = "gate"`.
    """

    enabled: bool = True
    level: Level | None = Field(default=None, examples=["gate"])


AnyLimits = TypeVar("AnyLimits", bound=Limits)


class CheckLimits(RootModel[dict[str, SerializeAsAny[Limits]]]):
    """The limits of every check, by its id; those that are not given are the check's own defaults."""

    model_config = ConfigDict(frozen=True)

    root: dict[str, SerializeAsAny[Limits]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        """Read each check's table by the check's own class; what is wrong is told with the check's id in front."""
        if given is PydanticUndefined:
            given = {}
        if not isinstance(given, Mapping):
            return given
        limits, errors = dict[str, Limits](), list[InitErrorDetails]()
        checks = registry.find_checks()
        for name in given:
            if name not in checks:
                unknown = PydanticCustomError("extra_forbidden", "there is no such check")
                errors.append(InitErrorDetails(type=unknown, loc=(name,), input=given[name]))
        for name, check in checks.items():
            table = given.get(name, {})
            try:
                limits[name] = check.limits.model_validate(table, strict=True)
            except ValidationError as error:
                errors += [_move_into(name, one) for one in error.errors(include_url=False)]
        if errors:
            raise ValidationError.from_exception_data(cls.__name__, errors)
        return limits

    @model_serializer(mode="plain")
    def _write(self, info: SerializationInfo) -> dict[str, Any]:
        tables = {
            name: limits.model_dump(
                mode=info.mode, exclude_unset=info.exclude_unset, exclude_none=info.exclude_none
            )
            for name, limits in self.root.items()
        }
        return {name: table for name, table in tables.items() if table or not info.exclude_unset}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """Describe one table per check."""
        tables = {name: check.limits.model_json_schema() for name, check in registry.find_checks().items()}
        return {"type": "object", "description": cls.__doc__, "properties": tables, "additionalProperties": False}

    def __getitem__(self, kind: type[AnyLimits]) -> AnyLimits:
        """Return the limits of one class.

        Raises:
            KeyError: If no check has limits of this class.
        """
        for limits in self.root.values():
            if type(limits) is kind:
                return limits
        raise KeyError(kind.__name__)

    def of(self, check: str) -> Limits:
        """Return the limits of a check by its id.

        Raises:
            KeyError: If there is no such check.
        """
        return self.root[check]

    def items(self) -> Iterator[tuple[str, Limits]]:
        """Iterate over ids and limits, in the order of the checks."""
        yield from self.root.items()


def _move_into(name: str, error: Any) -> InitErrorDetails:
    """Return an error of one check's table as an error of the tables of all checks."""
    kind = PydanticCustomError(error["type"], "{message}", {"message": error["msg"], **error.get("ctx", {})})
    return InitErrorDetails(type=kind, loc=(name, *error["loc"]), input=error["input"])
