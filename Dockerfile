# The exporter, and the simulator of `simulate` with it.
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
# The environments have no pip of their own: the build's pip fills them.
RUN python -m venv --without-pip /opt/vllm-cache-exporter \
 && python -m venv --without-pip /opt/build \
 && python -m pip --python /opt/vllm-cache-exporter/bin/python install \
      --no-cache-dir --no-compile --require-hashes --requirement requirements/run.txt \
 && python -m pip --python /opt/build/bin/python install \
      --no-cache-dir --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY exporter exporter
COPY docs/runbooks docs/runbooks
RUN /opt/build/bin/hatchling build -t wheel -d /wheels \
 && python -m pip --python /opt/vllm-cache-exporter/bin/python install \
      --no-cache-dir --no-deps --no-index /wheels/*.whl \
 # The file system is read-only later: what is compiled now need not be compiled at each start.
 # Of pygments, which comes with rich, next to nothing is ever imported.
 && /opt/vllm-cache-exporter/bin/python -m compileall -q -x /pygments/ /opt/vllm-cache-exporter/lib

FROM ${BASE_IMAGE}
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="vllm-cache-exporter" \
      org.opencontainers.image.description="Measures vLLM's prefix cache turn by turn and exports it to Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
# A program that is reached over the network has no use for an installer.
RUN python -c "import pip, pathlib, shutil; shutil.rmtree(pathlib.Path(pip.__file__).parent)" \
 && rm -f /usr/bin/pip* /usr/local/bin/pip*
COPY --from=build /opt/vllm-cache-exporter /opt/vllm-cache-exporter
COPY deploy/healthcheck.py /opt/vllm-cache-exporter/healthcheck.py
# Inside a container loopback is nobody's: what may reach the port is said by who publishes it.
ENV PATH=/opt/vllm-cache-exporter/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    VLLM_EXPORTER_LISTEN=0.0.0.0:9477
USER 65532:65532
WORKDIR /tmp
EXPOSE 9477
HEALTHCHECK --interval=15s --timeout=5s --start-period=15s --retries=3 \
  CMD ["python", "/opt/vllm-cache-exporter/healthcheck.py"]
ENTRYPOINT ["vllm-cache-exporter"]
CMD ["run"]
