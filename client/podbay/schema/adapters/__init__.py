"""Adapters: small programs in JSON that turn a user's items into what a service takes, and back.

    pipeline = create_pipeline([
        {"kind": "ExplodeCollections", "configuration": {"collections": ["choices"]}},
        {"kind": "TransformJSON", "configuration": {"text": "$.choices.text"}},
    ])
    for item in pipeline.apply(answers):
        ...

An adapter makes none, one or many items of each item, lazily, and keeps nothing of what they hold.
What is wrong with a specification is an AdapterConfigurationError when it is built; what is wrong
with an item is an AdapterRunError when its turn comes. Both name the step and the place.
"""

from podbay.schema.adapters._build import (
    Adapter,
    AdapterSpec,
    Pipeline,
    create_adapter,
    create_pipeline,
    known_kinds,
)
from podbay.schema.adapters._errors import (
    AdapterConfigurationError,
    AdapterError,
    AdapterRunError,
    ConfigurationAttributeError,
    ConfigurationDepthError,
    ConfigurationKeyError,
    ConfigurationTypeError,
    ConfigurationValueError,
    EnvelopeError,
    ItemAssertionError,
    ItemAttributeError,
    ItemBase64Error,
    ItemDepthError,
    ItemIndexError,
    ItemKeyError,
    ItemMemoryError,
    ItemNotImplementedError,
    ItemOverflowError,
    ItemPatternError,
    ItemTypeError,
    ItemValueError,
    JSONPathError,
    JsonPathLexerError,
    JsonPathParserError,
    PatternGuardError,
    PatternTimeoutError,
)
from podbay.schema.adapters._stages import AdapterOptions
from podbay.schema.adapters._upload import FileUploadEnvelope, file_upload_envelope

__all__ = [
    "Adapter",
    "AdapterConfigurationError",
    "AdapterError",
    "AdapterOptions",
    "AdapterRunError",
    "AdapterSpec",
    "ConfigurationAttributeError",
    "ConfigurationDepthError",
    "ConfigurationKeyError",
    "ConfigurationTypeError",
    "ConfigurationValueError",
    "EnvelopeError",
    "FileUploadEnvelope",
    "ItemAssertionError",
    "ItemAttributeError",
    "ItemBase64Error",
    "ItemDepthError",
    "ItemIndexError",
    "ItemKeyError",
    "ItemMemoryError",
    "ItemNotImplementedError",
    "ItemOverflowError",
    "ItemPatternError",
    "ItemTypeError",
    "ItemValueError",
    "JSONPathError",
    "JsonPathLexerError",
    "JsonPathParserError",
    "PatternGuardError",
    "PatternTimeoutError",
    "Pipeline",
    "create_adapter",
    "create_pipeline",
    "file_upload_envelope",
    "known_kinds",
]
