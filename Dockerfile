# docker build -t webhook-bridging-gateway .
# docker run --read-only -v gateway:/data -p 8080:8080 -e GATEWAY_TOKEN=… -e GATEWAY_UPSTREAM_API_KEY=… webhook-bridging-gateway

FROM python:3.13-slim AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The lock files alone first, so that a change of the source does not install every dependency again.
COPY requirements.lock requirements-build.lock ./
# What runs has an environment of its own, without pip and the build backend.
RUN python -m venv --without-pip /opt/gateway \
    && pip --python /opt/gateway/bin/python install --require-hashes -r requirements.lock \
    && pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY gateway gateway
RUN pip wheel --no-deps --no-build-isolation --check-build-dependencies --wheel-dir dist . \
    && pip --python /opt/gateway/bin/python install --no-deps dist/*.whl

FROM python:3.13-slim
LABEL org.opencontainers.image.title="webhook-bridging-gateway" \
    org.opencontainers.image.description="A sidecar that polls image-generation tasks for you and POSTs a signed webhook when each one ends." \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT" \
    org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH
# Importing once here compiles what a start imports, the standard library included; a read-only container cannot.
RUN python -c 'import gateway.cli.commands, gateway.serve.process, gateway.core.ed25519, gateway.cli.health, gateway.store.postgres.store' \
    && /usr/local/bin/python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && install -d -o 65532 -g 65532 /data
# Listening on all addresses needs GATEWAY_TOKEN (or GATEWAY_TOKEN_FILE): without it the start is refused, saying so. Only
# defaults: what stands in a mounted TOML file counts.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST_DEFAULT=0.0.0.0 \
    GATEWAY_DATABASE_URL_DEFAULT=sqlite:////data/gateway.db
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# The settings say where it listens, those in the file that the container's own command line names too.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["gateway", "health", "--config-of", "1"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
