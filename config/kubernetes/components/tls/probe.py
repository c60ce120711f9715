# SPDX-License-Identifier: Apache-2.0
"""Ask the agent of this node for a path; end with 0 if it answers 200."""

import base64
import os
import ssl
import sys
import urllib.error
import urllib.request
from pathlib import Path

secret = Path(os.environ.get("XDPSCOPE_WEB", "/etc/xdpscope-web"))
user, password = ((secret / name).read_text().strip() for name in ("username", "password"))
address = os.environ["NODE_ADDRESS"]
host = f"[{address}]" if ":" in address else address
port = os.environ.get("XDPSCOPE_PORT", "10091")
request = urllib.request.Request(
    f"https://{host}:{port}{sys.argv[1]}",
    headers={"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()},
)
# Like the kubelet: it asks whether the agent works, not who it is.
context = ssl.create_default_context()
context.check_hostname = False
context.verify_mode = ssl.CERT_NONE
try:
    urllib.request.urlopen(request, timeout=4, context=context)  # noqa: S310 - always https
except urllib.error.HTTPError as error:
    sys.exit(f"{sys.argv[1]}: {error.code} {error.read().decode(errors='replace').strip()}")
except OSError as error:
    sys.exit(f"{sys.argv[1]}: {error}")
