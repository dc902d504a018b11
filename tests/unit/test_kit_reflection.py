"""JSON names are those of protobuf's own mapping."""

from __future__ import annotations

import pytest
from google.protobuf import descriptor_pool

from podbay.v1 import inference_router_service_pb2, registry_service_pb2
from podbay_kit.reflection import json_name


@pytest.mark.parametrize("module", [inference_router_service_pb2, registry_service_pb2])
def test_they_agree_with_the_descriptors(module):
    file = descriptor_pool.Default().FindFileByName(module.DESCRIPTOR.name)
    compared = 0
    for message in file.message_types_by_name.values():
        for field in message.fields:
            assert json_name(field.name) == field.json_name
            compared += 1
    assert compared > 20
