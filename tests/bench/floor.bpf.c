// SPDX-License-Identifier: GPL-2.0-only
/* What the kernel takes for calling a tracer that does nothing: below it, nobody gets. */
#include "../../bpf/vmlinux.h"
#include <bpf/bpf_helpers.h>

SEC("fentry")
int empty_entry(__u64 *ctx)
{
	return 0;
}

SEC("fexit")
int empty_exit(__u64 *ctx)
{
	return 0;
}

char LICENSE[] SEC("license") = "GPL";
