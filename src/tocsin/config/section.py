"""What every table of the settings is made of."""

from typing import Annotated, Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

Seconds = Annotated[float, Field(gt=0, le=86_400)]


class Section(BaseModel):
    """A table: no unknown names, never changed once read."""

    # Only the whole is ever validated: a validator for each table would be built for nothing.
    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _false_is_none(cls, value: Any, info: ValidationInfo) -> Any:
        """TOML has no null: where a setting may be absent, ``false`` says so."""
        if value is not False:
            return value
        annotation = cls.model_fields[info.field_name or ""].annotation
        return None if type(None) in get_args(annotation) else value
