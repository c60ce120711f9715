# SPDX-License-Identifier: Apache-2.0
# The agent, built here from source: the BPF objects, the bindings, and the Python packages that
# requirements/agent.txt locks, with their hashes. What runs has no compiler, needs no shell, and writes nothing to its
# own file system.
#
#     docker build -t xdpscope:0.2.0 .
#     docker run --rm --network host --pid host --read-only \
#         --cap-drop ALL --cap-add SYS_ADMIN --cap-add SYS_PTRACE --cap-add NET_BROADCAST \
#         --cap-add SYSLOG --security-opt apparmor=unconfined \
#         -v /run/netns:/run/netns:ro,rslave xdpscope:0.2.0
#
# config/kubernetes/base/daemonset.yaml has the reason of each of these.

FROM debian:bookworm-slim AS build
RUN apt-get update && apt-get install -y --no-install-recommends \
        clang gcc libc6-dev libbpf-dev libelf-dev pkg-config python3-dev python3-pip python3-venv zlib1g-dev
WORKDIR /source
COPY requirements requirements
RUN python3 -m venv /opt/build \
    && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/build.txt \
    && python3 -m venv --without-pip /opt/xdpscope \
    && /opt/build/bin/pip --python /opt/xdpscope/bin/python install --no-cache-dir --require-hashes \
        -r requirements/agent.txt
COPY pyproject.toml setup.py README.md LICENSE ./
COPY LICENSES LICENSES
COPY bpf bpf
COPY agent agent
# Compiled to bytecode once and for all, and nobody's to write.
RUN /opt/build/bin/pip wheel --no-build-isolation --no-deps --wheel-dir /opt/wheel . \
    && /opt/build/bin/pip --python /opt/xdpscope/bin/python install --no-index --no-deps /opt/wheel/*.whl \
    && chmod -R a-w /opt/xdpscope

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends libbpf1 libpcap0.8 python3 \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt /var/cache/debconf/*-old /var/log/*
COPY --from=build /opt/xdpscope /opt/xdpscope
COPY LICENSE /usr/share/doc/xdpscope/LICENSE
COPY LICENSES /usr/share/doc/xdpscope/LICENSES
ENV PATH=/opt/xdpscope/bin:/usr/sbin:/usr/bin:/sbin:/bin \
    PYTHONDONTWRITEBYTECODE=1
# What only the builder knows: docs/release.md has the command.
ARG VERSION=0.2.0
ARG REVISION=
ARG SOURCE=
LABEL org.opencontainers.image.title="xdpscope" \
      org.opencontainers.image.description="Shows what every XDP program on a Linux host does with its packets" \
      org.opencontainers.image.licenses="Apache-2.0 AND GPL-2.0-only" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
EXPOSE 10091
# Unhealthy when scans of the host fail or hang. For `docker run`, where the agent listens at its default; Kubernetes
# has probes of its own.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s \
    CMD ["python3", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:10091/healthz', timeout=4)"]
# root, since capabilities are for nobody else; which of them is up to who runs it.
ENTRYPOINT ["xdpscope"]
CMD ["run"]
