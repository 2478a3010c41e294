"""
Legs in bodies: the resources of a request that has several.
"""

from typing import Annotated, Any, ClassVar, Final

from pydantic import AfterValidator, ConfigDict, Field, model_validator

from api.web.fields import Amount, Body, Id, optional
from processor.domain import legs

#: The legs of one request.
LEGS_MIN: Final = 2
LEGS_MAX: Final = 10


class Take(Body):
    """One resource of a reservation, of which the account has some set aside."""

    resource: Id
    take: Amount = Field(description="Held, and taken with the capture, in whole units of the resource.")

    def of_domain(self) -> legs.Leg:
        """Return the leg as the processor has it."""
        return legs.Leg(self.resource, take=self.take)


class Leg(Body):
    """One resource of an exchange, which the account takes from or gives to."""

    model_config: ClassVar[ConfigDict] = ConfigDict(
        json_schema_extra={"oneOf": [{"required": ["take"]}, {"required": ["give"]}]}
    )

    resource: Id
    take: Amount = optional("Taken from the resource, in whole units of it.")
    give: Amount = optional("Given to the resource, in whole units of it.")

    @model_validator(mode="after")
    def _goes_one_way(self) -> "Leg":
        if len({"take", "give"} & self.model_fields_set) != 1:
            raise ValueError("must have either take or give")
        return self

    def of_domain(self) -> legs.Leg:
        """Return the leg as the processor has it."""
        return legs.Leg(self.resource, self.take, self.give)


def _of_different_resources(found: list[Any]) -> list[Any]:
    if len({leg.resource for leg in found}) < len(found):
        raise ValueError("must name each resource once")
    return found


Legs = Annotated[
    list[Leg], Field(min_length=LEGS_MIN, max_length=LEGS_MAX), AfterValidator(_of_different_resources)
]
Takes = Annotated[
    list[Take], Field(min_length=LEGS_MIN, max_length=LEGS_MAX), AfterValidator(_of_different_resources)
]
