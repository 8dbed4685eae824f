"""A certificate authority that nobody knows, for servers of tests."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.missing import leave_out

NAMES = "IP:127.0.0.1,DNS:vendor.test"


@dataclass(frozen=True)
class Authority:
    ca: Path  # its own certificate
    server: ssl.SSLContext  # of a server with a certificate by it for NAMES


def authority(folder: Path) -> Authority:
    if shutil.which("openssl") is None:
        leave_out("making certificates takes openssl: apt-get install openssl")
    ca, ca_key, key, request, made = (folder / name for name in ("ca.pem", "ca.key", "key.pem", "request.pem", "server.pem"))
    (folder / "names").write_text(f"subjectAltName={NAMES}\n")
    new = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    _openssl(*new, "-x509", "-days", "2", "-subj", "/CN=Tests", "-keyout", str(ca_key), "-out", str(ca))
    _openssl(*new, "-subj", "/CN=vendor.test", "-keyout", str(key), "-out", str(request))
    signed = ["x509", "-req", "-days", "2", "-in", str(request), "-CA", str(ca), "-CAkey", str(ca_key), "-CAcreateserial"]
    _openssl(*signed, "-extfile", str(folder / "names"), "-out", str(made))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(made, key)
    return Authority(ca, context)


def _openssl(*arguments: str) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
