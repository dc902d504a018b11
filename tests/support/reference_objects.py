"""Hands objects of the platform's packages to Podbay's client, against a real installation.

Runs as a program, `reference_objects.py ENDPOINT TOKEN ACCOUNT`, in an environment that has the
platform's packages; Podbay's client is imported from this checkout. Writes what it saw as JSON.
"""

import asyncio
import json
import sys
import warnings
from datetime import UTC, datetime, timedelta
from typing import Any

warnings.simplefilter("ignore")

from dyff.schema import platform as theirs  # noqa: E402
from dyff.schema import requests  # noqa: E402

from podbay import AsyncClient, Client  # noqa: E402
from podbay.schema.adapters import create_pipeline  # noqa: E402

INTERFACE = theirs.InferenceInterface(
    endpoint="generate",
    outputSchema=theirs.DataSchema(arrowSchema=""),
    inputPipeline=[
        theirs.SchemaAdapter(kind="TransformJSON", configuration={"text": "$.prompt", "null": None})
    ],
    outputPipeline=[theirs.SchemaAdapter(kind="Rename", configuration={"text": "completion"})],
)


def model_request(account: str) -> Any:
    return requests.ModelCreateRequest(
        account=account,
        name="théirs",
        artifact=theirs.ModelArtifact(
            kind="HuggingFaceCache",
            huggingFaceCache=theirs.ModelArtifactHuggingFaceCache(repoID="a/b", revision="c"),
        ),
        source=theirs.ModelSource(kind="Mock"),
        resources=theirs.ModelResources(memory="1Gi"),
        accelerators=[
            theirs.Accelerator(kind="GPU", gpu=theirs.AcceleratorGPU(hardwareTypes=["x.com/gpu"]))
        ],
    )


def service_request(account: str, model: str) -> Any:
    return requests.InferenceServiceCreateRequest(
        account=account,
        name="theirs",
        model=model,
        interface=INTERFACE,
        runner=theirs.InferenceServiceRunner(
            kind="vllm",
            resources=theirs.ModelResources(cpu="1"),
            image=theirs.ContainerImageSource(
                host="docker.io", name="a/b", digest="sha256:" + "0" * 64
            ),
            env=[theirs.EnvVar(name="A", value="b")],
        ),
    )


async def use(client: Any, account: str, wait: Any, endpoint: str, token: str) -> dict[str, Any]:
    """Use a client of either face; `wait` awaits what the asynchronous one returns."""
    seen: dict[str, Any] = {}
    model = await wait(client.models.create(model_request(account)))
    seen["model"] = model.model_dump(mode="json")
    service = await wait(client.inferenceservices.create(service_request(account, model.id)))
    seen["service"] = service.model_dump(mode="json")
    edit = requests.DocumentationEditRequest(documentation={"title": "T", "summary": "S"})
    await wait(client.models.edit_documentation(model.id, edit))
    clear = requests.DocumentationEditRequest(documentation={"title": None})
    edited = await wait(client.models.edit_documentation(model.id, clear))
    seen["documentation"] = [edited.title, edited.summary]
    for kind in (theirs.Entities.Model, "Model"):
        assert (await wait(client.apigroup(kind).get(model.id))).id == model.id
    for entity in (
        theirs.EntityIdentifier(kind="Model", id=model.id),
        theirs.EntityIdentifier.of(theirs.Model.model_validate(seen["model"])),
    ):
        assert (await wait(client.get(entity))).id == model.id
    query = requests.ModelQueryRequest(id=model.id, orderBy="name", limit=5)
    seen["raw"] = [found["id"] for found in await wait(client.raw.models.query(query))]
    mock = await wait(
        client.inferenceservices.create_mock(
            "podbay.local.mocks.TextCompletion", account=account, interface=INTERFACE
        )
    )
    request = requests.InferenceSessionCreateRequest(
        account=account,
        inferenceService=mock.id,
        expires=datetime.now(UTC) + timedelta(hours=1),
        replicas=1,
    )
    made = await wait(client.inferencesessions.create(request))
    session = made.inferencesession.id
    await wait(client.inferencesessions.wait_ready(session, timeout=60))
    calls = client.inferencesessions.client(session, made.token, interface=INTERFACE)
    seen["inference"] = await wait(calls.infer({"prompt": "Open the pod bay doors"}))
    given = create_pipeline(INTERFACE.inputPipeline), create_pipeline(INTERFACE.outputPipeline)
    calls = client.inferencesessions.client(
        session, made.token, endpoint="generate", input_adapter=given[0], output_adapter=given[1]
    )
    seen["adapters"] = await wait(calls.infer({"prompt": "Open the pod bay doors"}))
    # What Podbay writes, their models read.
    theirs.InferenceSession.model_validate(made.inferencesession.model_dump(mode="json"))
    await wait(client.inferencesessions.terminate(session))
    nested = {
        "account": account,
        "name": "nested",
        "artifact": theirs.ModelArtifact(kind="Mock"),
        "source": theirs.ModelSource(kind="Mock"),
        "resources": theirs.ModelResources(),
    }
    seen["nested"] = (await wait(client.models.create(nested))).name
    return seen


async def main(endpoint: str, token: str, account: str) -> None:
    async def plain(value: Any) -> Any:
        return value

    async def awaited(value: Any) -> Any:
        return await value

    with Client(endpoint, token) as client:
        sync = await use(client, account, plain, endpoint, token)
    async with AsyncClient(endpoint, token) as other:
        asynchronous = await use(other, account, awaited, endpoint, token)
    json.dump({"sync": sync, "async": asynchronous}, sys.stdout)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
