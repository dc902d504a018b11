# The examples: services around real models, as one would package any. `make images` builds them,
# without network, from the wheels that `make wheels` has collected.
#
#   docker build -f examples.Dockerfile --target ocr -t podbay/ocr .
#
# The base needs a shell, Python 3.11 with venv, the C++ library and zlib. What else their packages
# link to they bring along: neither OpenGL nor GLib nor OpenMP is needed.
ARG BASE=python:3.11-slim-bookworm

FROM ${BASE} AS packages
COPY build/example-wheels /wheels
ENV PIP_QUIET=1 PIP_NO_CACHE_DIR=1 PIP_NO_INDEX=1 PIP_FIND_LINKS=/wheels \
    WEB_SERVER="httptools python-multipart starlette uvicorn uvloop"
# pip comes out of its own wheel: the base may have none.
RUN python3 -m venv --without-pip /opt/service \
 && ln -s /wheels/pip-*.whl /opt/pip.whl

# The services use nothing of Podbay but their own modules: what it needs is left out. So is
# Magika's program for the command line, which is larger than its model by ten times.
FROM packages AS magika-packages
RUN /opt/service/bin/python /opt/pip.whl/pip install $WEB_SERVER magika \
 && /opt/service/bin/python /opt/pip.whl/pip install --no-deps podbay \
 && rm /opt/service/bin/magika

FROM packages AS ocr-packages
RUN /opt/service/bin/python /opt/pip.whl/pip install $WEB_SERVER onnxruntime rapidocr \
 && /opt/service/bin/python /opt/pip.whl/pip install --no-deps podbay

FROM ${BASE} AS service
ENV PATH=/opt/service/bin:/usr/local/bin:/usr/bin:/bin \
    HOME=/tmp \
    HOST=0.0.0.0 \
    PORT=8000 \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
EXPOSE 8000
USER 65532:65532
WORKDIR /tmp

# POST /classify: tells of which type a file is.
FROM service AS magika
COPY --from=magika-packages /opt/service /opt/service
CMD ["python", "-m", "podbay.demo.magika_service"]

# POST /read: reads the text in a picture.
FROM service AS ocr
COPY --from=ocr-packages /opt/service /opt/service
CMD ["python", "-m", "podbay.demo.ocr_service"]
