# make image                  builds HEAD with buildah: the same commit gives the same layers
# docker build -t webhook-bridging-gateway .
# docker run --read-only --stop-timeout 30 -v gateway:/data -p 8080:8080 -e GATEWAY_TOKEN=… -e GATEWAY_UPSTREAM_API_KEY=… webhook-bridging-gateway

# Any other base needs Python 3.11 or newer with ensurepip: Debian's python3 and python3-venv will do.
ARG BASE=docker.io/library/python:3.13.15-slim-trixie@sha256:7c61056e61ac89e852de05f3dc6fa51a6dd2181797bceed46aa725dd7cb2cd3b

FROM ${BASE} AS build
WORKDIR /src
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
# The lock files alone first, so that a change of the source does not install every dependency again.
COPY requirements.lock requirements-build.lock ./
# What runs has an environment of its own, without pip and the build backend.
RUN python3 -m venv --without-pip /opt/gateway \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip --python /opt/gateway/bin/python install --no-compile --require-hashes -r requirements.lock \
    && /opt/build/bin/pip install --require-hashes -r requirements-build.lock
COPY pyproject.toml README.md LICENSE ./
COPY config config
COPY gateway gateway
# A read-only container compiles nothing, so all is compiled here; by hash, as a time would differ with each build.
RUN /opt/build/bin/pip wheel --no-deps --no-build-isolation --check-build-dependencies --wheel-dir dist . \
    && /opt/build/bin/pip --python /opt/gateway/bin/python install --no-compile --no-deps dist/*.whl \
    && PYTHONHASHSEED=0 /opt/gateway/bin/python -m compileall -q -f --invalidation-mode unchecked-hash /opt/gateway/lib

FROM ${BASE}
LABEL org.opencontainers.image.title="webhook-bridging-gateway" \
    org.opencontainers.image.description="A sidecar that polls image-generation tasks for you and POSTs a signed webhook when each one ends." \
    org.opencontainers.image.version="0.1.0" \
    org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH
# Importing compiles what a start needs of the standard library, which the base may have without. The base's own pip goes.
RUN PYTHONHASHSEED=0 python -c 'import gateway.cli.commands, gateway.serve.process, gateway.core.ed25519, gateway.cli.health, gateway.store.postgres.store, gateway.otel.exporting' \
    && base=$(python -c 'import sys; print(sys._base_executable)') \
    && { ! "$base" -B -c 'import pip' 2>/dev/null || "$base" -B -m pip uninstall --yes --quiet --root-user-action=ignore pip; } \
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
