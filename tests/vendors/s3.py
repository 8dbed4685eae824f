"""A server that speaks S3: moto's, in a process of its own."""

from __future__ import annotations

import importlib.util
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from typing import Any
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from cdc_tracker.worker.processes import ends_with_us
from tests.ports import free_ports
from tests.vendors.kit import EngineUnavailable

START_SECONDS = 60.0
ACCESS_KEY, SECRET_KEY = "AKIA0000TEST", "s3-secret-7d1f"


@dataclass(frozen=True)
class S3:
    url: str

    def client(self) -> Any:
        """botocore's; the caller closes it."""
        import botocore.session

        session = botocore.session.get_session()
        return session.create_client(
            "s3",
            region_name="us-east-1",
            endpoint_url=self.url,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
        )

    @contextmanager
    def fresh_bucket(self) -> Iterator[str]:
        name = f"shop-{secrets.token_hex(6)}"
        client = self.client()
        try:
            client.create_bucket(Bucket=name)
            yield name
        finally:
            client.close()

    def objects(self, bucket: str, suffix: str = "") -> dict[str, bytes]:
        client = self.client()
        try:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
            keys = [found["Key"] for page in pages for found in page.get("Contents", ())]
            return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys if key.endswith(suffix)}
        finally:
            client.close()

    def kept(self, bucket: str) -> Callable[[], None]:
        """A copy of its objects; the function puts them in the place of what is there."""
        objects = self.objects(bucket)
        return lambda: self.fill(bucket, objects)

    def fill(self, bucket: str, objects: dict[str, bytes]) -> None:
        """These, and no others."""
        with closing(self.client()) as client:
            for key in self.objects(bucket):
                client.delete_object(Bucket=bucket, Key=key)
            for key, body in objects.items():
                client.put_object(Bucket=bucket, Key=key, Body=body)


@contextmanager
def engine() -> Iterator[S3]:
    if importlib.util.find_spec("moto") is None or importlib.util.find_spec("flask") is None:
        raise EngineUnavailable("moto is not installed: pip install 'cdc-tracker[dev]'")
    [port] = free_ports(1)
    process = subprocess.Popen(
        [sys.executable, "-c", "from moto.server import main; main()", "-H", "127.0.0.1", "-p", str(port)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        preexec_fn=ends_with_us(),  # noqa: PLW1509 - prctl only
    )
    try:
        server = S3(f"http://127.0.0.1:{port}")
        deadline = time.monotonic() + START_SECONDS
        opener = build_opener(ProxyHandler({}))
        while process.poll() is None and time.monotonic() < deadline:
            with suppress(URLError, ConnectionError):
                opener.open(server.url, timeout=5).close()
                break
            time.sleep(0.05)
        else:
            raise RuntimeError("moto's server did not start")
        yield server
    finally:
        process.kill()
        process.wait(60)
