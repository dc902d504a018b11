"""A real model that takes pictures: from a file upload to lines of text."""

from __future__ import annotations

import base64
import sys

from podbay import Client
from podbay.schema.platform import InferenceInterface
from tests.support.pictures import picture_of

INTERFACE = InferenceInterface.model_validate(
    {
        "endpoint": "read",
        "outputSchema": {"arrowSchema": ""},
        "inputPipeline": [
            {"kind": "FileUpload", "configuration": {"field": "$.data", "filename": "$.name"}}
        ],
        "outputPipeline": [
            {"kind": "ExplodeCollections", "configuration": {"collections": ["lines"]}},
            {"kind": "TransformJSON", "configuration": {"text": "$.lines.text"}},
        ],
    }
)


def test_a_picture_becomes_lines(client: Client, account: str):
    service = client.inferenceservices.create_process(
        [sys.executable, "-m", "podbay.demo.ocr_service"], INTERFACE, account=account, name="ocr"
    )
    made = client.inferencesessions.create({"account": account, "inferenceService": service.id})
    session_id = made.inferencesession.id
    client.inferencesessions.wait_ready(session_id, timeout=120)
    with client.inferencesessions.client(session_id, made.token, interface=INTERFACE) as calls:
        pictures = [["OPEN THE DOORS", "HAL 9000"], ["ONE LINE"], []]
        items = [
            {"name": f"{index}.png", "data": base64.b64encode(picture_of(*lines)).decode()}
            for index, lines in enumerate(pictures)
        ]
        found = [result.unwrap() for result in calls.infer_many(items)]
    assert [[item["text"].upper() for item in lines] for lines in found] == pictures
    client.inferencesessions.terminate(session_id)
