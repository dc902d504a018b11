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
    """One step of a pipeline. The kind is checked where a pipeline is built, and at creation.

    Attributes:
        kind: "Drop", "Select", "TransformJSON" and so on; see `podbay.schema.adapters`.
        configuration: The kind's own options.
    """

    kind: str
    configuration: dict[str, Any] | None = None


class DyffDataSchema(PodbayModel):
    """A schema by the names of its components, as "text.Text".

    Attributes:
        components: The names, at least one.
        schemaVersion: "0.1".
    """

    components: Annotated[list[str], Field(min_length=1)]
    schemaVersion: SchemaVersion = SCHEMA_VERSION


class DataSchema(PodbayModel):
    """The schema of data: as an Arrow schema in base64, by components, and as JSON Schema.

    Attributes:
        arrowSchema: A serialized Arrow schema, in base64; the content is not checked.
        dyffSchema: The components that it is made of.
        jsonSchema: The same as JSON Schema.
    """

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
    """Another view of data.

    Attributes:
        id: The view's id.
        viewOf: What it is a view of.
        schema_: The schema of the view's items; `schema` in JSON, which is a method's name here.
        adapterPipeline: What makes the view's items of the original ones.
    """

    id: str
    viewOf: str
    # `schema` is the name of a method of pydantic's models.
    schema_: DataSchema = Field(alias="schema")
    adapterPipeline: list[SchemaAdapter] | None = None


class InferenceInterface(PodbayModel):
    """How JSON goes into a service and out of it.

    Attributes:
        endpoint: The path of the endpoint, without a leading slash; may hold slashes and be empty.
        outputSchema: The schema of the answers after the output pipeline.
        inputPipeline: What makes requests of input items.
        outputPipeline: What makes output items of answers.
    """

    endpoint: str
    outputSchema: DataSchema
    inputPipeline: list[SchemaAdapter] | None = None
    outputPipeline: list[SchemaAdapter] | None = None


class InferenceServiceBuilder(PodbayModel):
    """Legacy: how a service was built.

    Attributes:
        kind: What built it.
        args: Its arguments.
    """

    kind: str
    args: list[str] | None = None


class InferenceServiceBase(PodbayModel):
    """What a service's entity, embedded form and requests share.

    Attributes:
        name: What people call it; of a mock, the import path of its class.
        builder: Legacy.
        runner: How it is run.
        interface: How it is called.
        outputViews: Other views of its answers.
    """

    name: str
    builder: InferenceServiceBuilder | None = None
    runner: InferenceServiceRunner | None = None
    interface: InferenceInterface
    outputViews: list[DataView] = Field(default_factory=list)


class InferenceServiceSpec(InferenceServiceBase):
    """The specification of a service, with the model that it loads.

    Attributes:
        model: The model that it loads, embedded.
    """

    model: ForeignModel | None = None


class ForeignInferenceService(InferenceServiceSpec):
    """A service as a session embeds it.

    Attributes:
        id: The service's id.
        account: The account that owns it.
    """

    id: str
    account: str


class InferenceService(DyffEntity, InferenceServiceSpec):
    """A packaged AI system whose web server offers a JSON API."""

    kind: Literal["InferenceService"] = "InferenceService"

    def _spec_dependencies(self) -> set[str]:
        return set() if self.model is None else {self.model.id}
