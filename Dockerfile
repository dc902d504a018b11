# The images of Podbay: three services, and the replica that serves mocks. `make images` builds
# them, without network, from the wheels that `make wheels` has collected.
#
#   docker build --target session-manager -t podbay/session-manager .
#
# The base needs a shell, Python 3.11 with venv, and the C++ library.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
COPY build/wheels /wheels
# pip comes out of its own wheel: the base may have none.
RUN python3 -m venv --without-pip /opt/podbay \
 && set -- /wheels/pip-*.whl \
 && /opt/podbay/bin/python "$1/pip" install --quiet --no-cache-dir --no-index \
      --find-links /wheels "podbay[local,docker,models,postgres]" \
 && mkdir --mode=0700 /var/lib/podbay /var/lib/podbay-certs \
 && cd /var/lib/podbay-certs \
 && mkdir --mode=0700 registry session-manager inference-router

FROM ${BASE} AS service
COPY --from=packages /opt/podbay /opt/podbay
# Volumes take over whom these folders belong to.
COPY --from=packages --chown=65532:65532 /var/lib/podbay /var/lib/podbay
COPY --from=packages --chown=65532:65532 /var/lib/podbay-certs /var/lib/podbay-certs
ENV PATH=/opt/podbay/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
USER 65532:65532
WORKDIR /var/lib/podbay

FROM service AS registry
EXPOSE 7101
ENTRYPOINT ["python", "-m", "podbay_registry"]
CMD ["--help"]

FROM service AS session-manager
EXPOSE 7102
ENTRYPOINT ["python", "-m", "podbay_session_manager"]
CMD ["--help"]

FROM service AS inference-router
EXPOSE 7103
ENTRYPOINT ["python", "-m", "podbay_inference_router"]
CMD ["--help"]

# Serves one mock: the import path of its class is the argument.
FROM service AS replica
ENV PODBAY_REPLICA_HOST=0.0.0.0 \
    PORT=8000
EXPOSE 8000
ENTRYPOINT ["python", "-m", "podbay_kit.replica_server"]
CMD ["podbay.local.mocks.TextCompletion"]
