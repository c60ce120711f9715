# SPDX-License-Identifier: Apache-2.0
"""Compiles ``xdpscope.libbpf._raw``: libbpf in cffi's API mode, out of line.

Run by setuptools (``cffi_modules``), never at run time.
"""

import subprocess
from pathlib import Path

from cffi import FFI

_SHIM = """
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <bpf/libbpf.h>
#include <bpf/bpf.h>
#include <bpf/btf.h>

/* cffi has no va_list: messages are formatted before Python sees them. */
static void xdpscope_log(int level, const char *message);

static int format_and_pass_on(enum libbpf_print_level level, const char *format, va_list args)
{
    char message[4096];

    /* Hundreds of lines for each object, of use to libbpf's authors alone. */
    if (level == LIBBPF_DEBUG)
        return 0;
    vsnprintf(message, sizeof(message), format, args);
    xdpscope_log(level, message);
    return 0;
}

static void xdpscope_capture_log(void) { libbpf_set_print(format_and_pass_on); }

static int xdpscope_ring_sample(void *ctx, void *data, size_t size);

static struct ring_buffer *xdpscope_ring_buffer_new(int map_fd, void *ctx)
{
    return ring_buffer__new(map_fd, xdpscope_ring_sample, ctx, NULL);
}

/* The id of the program that a tracing link is on (5.13); 0 for what is no program. */
static __u32 xdpscope_tracing_target(const struct bpf_link_info *info)
{
    return info->type == BPF_LINK_TYPE_TRACING ? info->tracing.target_obj_id : 0;
}

static __u32 xdpscope_tracing_function(const struct bpf_link_info *info)
{
    return info->type == BPF_LINK_TYPE_TRACING ? info->tracing.target_btf_id : 0;
}

/* btf.h has these as inline functions over bit fields, out of cffi's reach. */
static int xdpscope_btf_kind(const struct btf_type *t) { return btf_kind(t); }
static int xdpscope_btf_vlen(const struct btf_type *t) { return btf_vlen(t); }
static int xdpscope_btf_int_signed(const struct btf_type *t)
{
    return !!(btf_int_encoding(t) & BTF_INT_SIGNED);
}
static const struct btf_member *xdpscope_btf_members(const struct btf_type *t)
{
    return btf_members(t);
}
static const struct btf_array *xdpscope_btf_array(const struct btf_type *t)
{
    return btf_array(t);
}
static const struct btf_enum *xdpscope_btf_enum(const struct btf_type *t) { return btf_enum(t); }
static const struct btf_param *xdpscope_btf_params(const struct btf_type *t)
{
    return btf_params(t);
}
static __u32 xdpscope_btf_member_bit_offset(const struct btf_type *t, __u32 index)
{
    return btf_member_bit_offset(t, index);
}
"""


def _pkg_config(what: str) -> list[str]:
    command = ["pkg-config", what, "libbpf >= 1.1"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    except FileNotFoundError:
        raise SystemExit("building xdpscope needs pkg-config: install pkg-config") from None
    except subprocess.CalledProcessError as error:
        raise SystemExit(
            "building xdpscope needs libbpf 1.1 or newer and its headers"
            f" (Debian: libbpf-dev): {error.stderr.strip()}"
        ) from None


_DIRECTORY = Path(__file__).resolve().parent

# The declarations of libbpf and of the kernel's bpf(2) structures, one file for each area. The C
# compiler replaces each "..." with the layout or number from the headers of the system that it
# builds on. Nothing there repeats one. Only declarations of libbpf 1.1 (Debian 12) are there. The
# types of kernel.h come first.
_AREAS = ("kernel", "log", "syscalls", "btf", "objects", "ring_buffer", "capture")

ffibuilder = FFI()
for _area in _AREAS:
    ffibuilder.cdef((_DIRECTORY / "declarations" / f"{_area}.h").read_text())
ffibuilder.set_source(
    "xdpscope.libbpf._raw",
    _SHIM + "".join((_DIRECTORY / name).read_text() for name in ("_rings.c", "_pcapng.c")),
    include_dirs=[str(_DIRECTORY.parents[2] / "bpf" / "common")],  # capture.h
    extra_compile_args=["-O2", "-Wall", *_pkg_config("--cflags")],
    extra_link_args=_pkg_config("--libs"),
)
