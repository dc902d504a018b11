"""Inference services: packaged AI systems, ready to run."""

from typing import Annotated, Any, Literal

from pydantic import Field

from podbay.schema import data
from podbay.schema._base import SCHEMA_VERSION, PodbayModel, SchemaVersion
from podbay.schema._common import DyffEntity
from podbay.schema._model import ForeignModel
from podbay.schema._runner import InferenceServiceRunner

__all__ = [
    "DataSchema",
    "DataView",
    "DyffDataSchema",
    "ForeignInferenceService",
    "InferenceInterface",
    "InferenceService",
    "InferenceServiceBase",
    "InferenceServiceBuilder",
    "InferenceServiceSpec",
    "SchemaAdapter",
]


class SchemaAdapter(PodbayModel):
    """One step of a pipeline. The kind is checked where a pipeline is built, and at creation."""

    kind: str
    configuration: dict[str, Any] | None = None


class DyffDataSchema(PodbayModel):
    """A schema by the names of its components, as "text.Text"."""

    components: Annotated[list[str], Field(min_length=1)]
    schemaVersion: SchemaVersion = SCHEMA_VERSION


class DataSchema(PodbayModel):
    """The schema of data: as an Arrow schema in base64, by components, and as JSON Schema."""

    arrowSchema: str
    dyffSchema: DyffDataSchema | None = None
    jsonSchema: dict[str, Any] | None = None

    @staticmethod
    def make_input_schema(schema: DyffDataSchema | str | list[str]) -> "DataSchema":
        """Returns the complete schema of input items: the components' fields and `_index_`.

        Args:
            schema: Names of components, as "text.Text", or the schema that lists them.

        Raises:
            ValueError: A name is unknown, has no schema, or comes twice.
        """
        named = _named(schema)
        return DataSchema(
            arrowSchema=data.input_arrow_schema(named.components),
            dyffSchema=named,
            jsonSchema=data.input_json_schema(named.components),
        )

    @staticmethod
    def make_output_schema(schema: DyffDataSchema | str | list[str]) -> "DataSchema":
        """Returns the complete schema of output items, whose responses hold the components' fields.

        Args:
            schema: Names of components, as "text.Text", or the schema that lists them.

        Raises:
            ValueError: A name is unknown, has no schema, or comes twice.
        """
        named = _named(schema)
        return DataSchema(
            arrowSchema=data.output_arrow_schema(named.components),
            dyffSchema=named,
            jsonSchema=data.output_json_schema(named.components),
        )


def _named(schema: DyffDataSchema | str | list[str]) -> DyffDataSchema:
    if isinstance(schema, DyffDataSchema):
        return schema.model_copy(deep=True)
    return DyffDataSchema(components=[schema] if isinstance(schema, str) else list(schema))


class DataView(PodbayModel):
    """Another view of data."""

    id: str
    viewOf: str
    # `schema` is the name of a method of pydantic's models.
    schema_: DataSchema = Field(alias="schema")
    adapterPipeline: list[SchemaAdapter] | None = None


class InferenceInterface(PodbayModel):
    """How JSON goes into a service and out of it."""

    # The path of the endpoint, without a leading slash; it may hold slashes and may be empty.
    endpoint: str
    outputSchema: DataSchema
    inputPipeline: list[SchemaAdapter] | None = None
    outputPipeline: list[SchemaAdapter] | None = None


class InferenceServiceBuilder(PodbayModel):
    """Legacy: how a service was built."""

    kind: str
    args: list[str] | None = None


class InferenceServiceBase(PodbayModel):
    """What a service's entity, embedded form and requests share."""

    name: str
    # Legacy.
    builder: InferenceServiceBuilder | None = None
    runner: InferenceServiceRunner | None = None
    interface: InferenceInterface
    outputViews: list[DataView] = Field(default_factory=list)


class InferenceServiceSpec(InferenceServiceBase):
    """The specification of a service, with the model that it loads."""

    model: ForeignModel | None = None


class ForeignInferenceService(InferenceServiceSpec):
    """A service as a session embeds it."""

    id: str
    account: str


class InferenceService(DyffEntity, InferenceServiceSpec):
    """A packaged AI system whose web server offers a JSON API."""

    kind: Literal["InferenceService"] = "InferenceService"

    def _spec_dependencies(self) -> set[str]:
        return set() if self.model is None else {self.model.id}
