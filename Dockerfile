# Two images: `worker` (the default) and `postgres`, the official one with the wal2json plugin.

FROM postgres:17-bookworm AS postgres
RUN apt-get update \
    && apt-get install -y --no-install-recommends postgresql-17-wal2json \
    && rm -rf /var/lib/apt/lists/*
# Minor releases since August 2026 allow only their own plugins unless told so; older ones refuse the setting.
RUN if postgres --describe-config | grep -q output_plugin_libraries; then \
    echo "output_plugin_libraries = 'pgoutput, test_decoding, wal2json'" >> /usr/share/postgresql/postgresql.conf.sample; fi


FROM python:3.12-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY cdc_tracker cdc_tracker
COPY sql sql
RUN python -m venv /opt/cdc-tracker && /opt/cdc-tracker/bin/pip install --no-cache-dir --constraint constraints.txt .


FROM python:3.12-slim-bookworm AS worker
# A fixed id, so that the owner of a mounted data directory can be set from outside.
RUN groupadd --system --gid 10001 cdc && useradd --system --uid 10001 --gid cdc --home-dir /var/lib/cdc-tracker --create-home cdc
COPY --from=build /opt/cdc-tracker /opt/cdc-tracker
ENV PATH=/opt/cdc-tracker/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    CDC_TRACKER_CONFIG=/etc/cdc-tracker/cdc-tracker.yml \
    CDC_TRACKER_DATA_DIR=/var/lib/cdc-tracker
USER cdc
VOLUME /var/lib/cdc-tracker
# Readiness, not liveness: it fails if the stream does not move although it should.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9464/readyz', timeout=4)"]
# SIGTERM drains: `docker stop` has to wait longer than drain_timeout.
STOPSIGNAL SIGTERM
ENTRYPOINT ["cdc-tracker"]
CMD ["run"]
