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
COPY --from=build /opt/gateway /opt/gateway
ENV PATH=/opt/gateway/bin:$PATH
# Importing once here compiles what a start imports, the standard library included; a read-only container cannot.
RUN python -c 'import gateway.cli, gateway.app' \
    && /usr/local/bin/python -m pip uninstall --yes --quiet --root-user-action=ignore pip \
    && install -d -o 65532 -g 65532 /data
# Listening on all addresses needs GATEWAY_TOKEN (or GATEWAY_TOKEN_FILE): without it the start is refused, saying so.
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    GATEWAY_HOST=0.0.0.0 \
    GATEWAY_DATABASE_URL=sqlite:////data/gateway.db
USER 65532:65532
WORKDIR /data
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
# http.client goes to this address directly, whatever proxy the environment names.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["python", "-c", \
    "import http.client, os, sys; c = http.client.HTTPConnection('127.0.0.1', int(os.environ.get('GATEWAY_PORT', 8080)), timeout=4); c.request('GET', '/healthz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["gateway"]
CMD ["serve"]
