# One image for all commands. The base is an argument, so that a house can build on its own.
ARG BASE=python:3.11-slim
# checkov:skip=CKV_DOCKER_7:The base is the argument above, which has a version; production pins the built image by digest.
# checkov:skip=CKV_DOCKER_2:One image for all commands, which listen on different ports; Compose and Kubernetes say what is healthy.

FROM ${BASE} AS build
WORKDIR /build
RUN python3 -m venv /app
COPY requirements.lock requirements-dev.lock ./
RUN /app/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.lock \
    && python3 -m venv /tools \
    && /tools/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements-dev.lock
COPY pyproject.toml README.md ./
COPY cli cli
COPY ingress ingress
COPY sandbox sandbox
COPY shared shared
COPY worker worker
RUN /tools/bin/python -m build --wheel --no-isolation --outdir /wheel \
    && /app/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps /wheel/*.whl \
    && /app/bin/pip uninstall --yes --quiet setuptools pip

FROM ${BASE}
RUN useradd --uid 10001 --no-log-init --home-dir /var/lib/receiver --create-home receiver
COPY --from=build /app /app
USER 10001:10001
WORKDIR /var/lib/receiver
VOLUME /var/lib/receiver
EXPOSE 8080 8090 9090 9091
ENV PATH=/app/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
STOPSIGNAL SIGTERM
ENTRYPOINT ["vectorcare-receiver"]
CMD ["run"]
