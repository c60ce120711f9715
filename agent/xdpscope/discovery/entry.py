# SPDX-License-Identifier: Apache-2.0
"""The entry functions that a tracer can read.

A tracer finds the packet in the first argument of its target, and the verdict after the last. Both
are right only if the kernel trusts the types of the entry function. It does so for one argument, a
pointer to ``struct xdp_md``, and an integer as the result (``btf_prepare_func_args`` and
``btf_distill_func_proto`` in kernel/bpf/btf.c). For any other function the kernel assumes five
numbers as arguments. The packet cannot be read then, and an argument may be read as the verdict.
"""

from xdpscope.errors import VanishedError
from xdpscope.libbpf import Btf

_CONTEXT = "xdp_md"


def problem_of(btf: Btf, function: int) -> str:
    """Return why no tracer can read this function, for people; empty if one can."""
    try:
        result, arguments = btf.prototype(function)
        if len(arguments) != 1:
            return f"it takes {len(arguments) or 'no'} arguments instead of 1"
        if not btf.is_pointer_to(arguments[0], _CONTEXT):
            return f"its argument is not a pointer to struct {_CONTEXT}"
        if not btf.is_integer(result):
            return "it returns no integer"
    except VanishedError:
        return "its BTF has no prototype of it"
    return ""
