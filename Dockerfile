# The exporter, with the simulator (`simulate`).
#
# The same sources and lock give the same files with the same times; docs/security.md shows how to
# check that. A base image can change under its tag: for the same bytes next year, name one by digest
# (BASE_IMAGE).
ARG BASE_IMAGE=python:3.11-slim

FROM ${BASE_IMAGE} AS build
# The time of every file that this build makes.
ARG SOURCE_DATE_EPOCH=315532800
ENV PYTHONDONTWRITEBYTECODE=1
WORKDIR /src
COPY requirements/run.txt requirements/build.txt requirements/
# The environments have no pip; the pip of the base image installs into them.
RUN python -m venv --without-pip /opt/vllm-cache-exporter \
 && python -m venv --without-pip /opt/build \
 && python -m pip --python /opt/vllm-cache-exporter/bin/python install \
      --no-cache-dir --no-compile --require-hashes --requirement requirements/run.txt \
 && python -m pip --python /opt/build/bin/python install \
      --no-cache-dir --require-hashes --requirement requirements/build.txt
COPY pyproject.toml README.md CHANGELOG.md LICENSE ./
COPY exporter exporter
COPY docs/runbooks docs/runbooks
COPY docs/schemas docs/schemas
COPY deploy/prometheus/rules deploy/prometheus/rules
COPY deploy/systemd deploy/systemd
COPY grafana/dashboards grafana/dashboards
COPY release/hatch_build.py release/hatch_build.py
# The commit of the sources, shown by --version and vllm_exporter_build_info: `make image` gives it.
ARG REVISION=
RUN EXPORTER_REVISION=$REVISION /opt/build/bin/hatchling build -t wheel -d /wheels \
 && python -m pip --python /opt/vllm-cache-exporter/bin/python install \
      --no-cache-dir --no-compile --no-deps --no-index /wheels/*.whl
COPY deploy/healthcheck.py /opt/vllm-cache-exporter/healthcheck.py
# The file system is read-only at run time, so everything is compiled now. unchecked-hash: the .pyc
# files do not contain the time of their source. Only rich's own tracebacks and syntax use the lexers
# of pygments, and the exporter uses neither: 5 MB that nothing imports, as are the sources of
# compiled modules.
RUN find /opt/vllm-cache-exporter/lib -path '*/pygments/lexers/*.py' \
      ! -name __init__.py ! -name _mapping.py ! -name python.py ! -name special.py -delete \
 && find /opt/vllm-cache-exporter/lib -name '*.py[xi]' -delete \
 && /opt/vllm-cache-exporter/bin/python -m compileall -q --invalidation-mode unchecked-hash \
      -x '/pygments/(lexers|formatters|styles)/(?!_)' /opt/vllm-cache-exporter/lib \
 && chmod 644 /opt/vllm-cache-exporter/healthcheck.py \
 && rm -rf /opt/build \
 && find /opt -exec touch --no-dereference --date=@${SOURCE_DATE_EPOCH} {} +

FROM ${BASE_IMAGE}
ARG SOURCE_DATE_EPOCH=315532800
ARG VERSION=0.1.0
LABEL org.opencontainers.image.title="vllm-cache-exporter" \
      org.opencontainers.image.description="Measures vLLM's prefix cache turn by turn and exports it to Prometheus" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}"
# A program that is reachable over the network must not have an installer.
RUN pip=$(python -B -c "import pathlib, pip; print(pathlib.Path(pip.__file__).parent)") \
 && rm -rf "$pip" /usr/bin/pip* /usr/local/bin/pip* \
 && touch --date=@${SOURCE_DATE_EPOCH} "$(dirname "$pip")" /usr/bin /usr/local/bin
COPY --from=build /opt /opt
# Inside a container nobody can reach loopback. The published port decides who reaches the exporter.
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
