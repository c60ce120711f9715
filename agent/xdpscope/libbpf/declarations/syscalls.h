/* SPDX-License-Identifier: Apache-2.0 */
/* bpf.h: the system calls */

int bpf_obj_get_info_by_fd(int fd, void *info, __u32 *info_len);
int bpf_prog_get_next_id(__u32 start_id, __u32 *next_id);
int bpf_map_get_next_id(__u32 start_id, __u32 *next_id);
int bpf_link_get_next_id(__u32 start_id, __u32 *next_id);
int bpf_prog_get_fd_by_id(__u32 id);
int bpf_map_get_fd_by_id(__u32 id);
int bpf_link_get_fd_by_id(__u32 id);
int bpf_btf_get_fd_by_id(__u32 id);
int bpf_enable_stats(enum bpf_stats_type type);
int bpf_obj_pin(int fd, const char *pathname);
int bpf_obj_get(const char *pathname);

struct bpf_map_create_opts {
    size_t sz; __u32 btf_fd; __u32 btf_key_type_id; __u32 btf_value_type_id; __u32 map_flags; ...;
};
int bpf_map_create(enum bpf_map_type type, const char *name, __u32 key_size, __u32 value_size,
                   __u32 max_entries, const struct bpf_map_create_opts *opts);
int bpf_map_lookup_elem(int fd, const void *key, void *value);
int bpf_map_update_elem(int fd, const void *key, const void *value, __u64 flags);
int bpf_map_lookup_and_delete_elem(int fd, const void *key, void *value);
int bpf_map_delete_elem(int fd, const void *key);
int bpf_map_get_next_key(int fd, const void *key, void *next_key);
struct bpf_map_batch_opts { size_t sz; ...; };
int bpf_map_lookup_batch(int fd, void *in_batch, void *out_batch, void *keys, void *values,
                         __u32 *count, const struct bpf_map_batch_opts *opts);

struct bpf_prog_load_opts {
    size_t sz;
    enum bpf_attach_type expected_attach_type;
    __u32 attach_btf_id;
    __u32 attach_prog_fd;
    __u32 log_level;
    __u32 log_size;
    char *log_buf;
    ...;
};
int bpf_prog_load(enum bpf_prog_type type, const char *name, const char *license,
                  const struct bpf_insn *insns, size_t insn_cnt,
                  const struct bpf_prog_load_opts *opts);

struct xdp_md {
    __u32 data;
    __u32 data_end;
    __u32 data_meta;
    __u32 ingress_ifindex;
    ...;
};
struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    const void *ctx_in;
    __u32 data_size_in;
    __u32 data_size_out;
    __u32 ctx_size_in;
    __u32 retval;
    int repeat;
    __u32 duration;
    ...;
};
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);

int bpf_link_create(int prog_fd, int target_fd, enum bpf_attach_type type, const void *opts);
int bpf_iter_create(int link_fd);
