/* SPDX-License-Identifier: Apache-2.0 */
/* The declarations of libbpf and of the kernel's bpf(2) structures for cffi.
 * The C compiler replaces each "..." with the layout or number from the headers of the system that it builds
 * on. Nothing here repeats one. Only declarations of libbpf 1.1 (Debian 12) are here. */

typedef uint8_t __u8;
typedef uint32_t __u32;
typedef int32_t __s32;
typedef uint64_t __u64;

/* libbpf.h: version and log */
uint32_t libbpf_major_version(void);
uint32_t libbpf_minor_version(void);
const char *libbpf_version_string(void);
void xdpscope_capture_log(void);
extern "Python" void xdpscope_log(int level, const char *message);

/* linux/bpf.h */
enum bpf_map_type {
    BPF_MAP_TYPE_ARRAY, BPF_MAP_TYPE_HASH, BPF_MAP_TYPE_PERCPU_ARRAY, BPF_MAP_TYPE_PERCPU_HASH,
    BPF_MAP_TYPE_RINGBUF, BPF_MAP_TYPE_ARRAY_OF_MAPS, ...
};
enum bpf_prog_type { BPF_PROG_TYPE_XDP, BPF_PROG_TYPE_TRACING, BPF_PROG_TYPE_EXT, ... };
enum bpf_attach_type {
    BPF_TRACE_FENTRY, BPF_TRACE_FEXIT, BPF_TRACE_ITER, BPF_XDP, BPF_XDP_DEVMAP, BPF_XDP_CPUMAP, ...
};
enum bpf_stats_type { BPF_STATS_RUN_TIME, ... };

#define BPF_NOEXIST ...
#define BPF_LD ...
#define BPF_LDX ...
#define BPF_ST ...
#define BPF_STX ...
#define BPF_ALU ...
#define BPF_ALU64 ...
#define BPF_JMP ...
#define BPF_JMP32 ...
#define BPF_B ...
#define BPF_H ...
#define BPF_W ...
#define BPF_DW ...
#define BPF_TO_BE ...
#define BPF_IMM ...
#define BPF_MEM ...
#define BPF_ATOMIC ...
#define BPF_FETCH ...
#define BPF_XCHG ...
#define BPF_CMPXCHG ...
#define BPF_ADD ...
#define BPF_SUB ...
#define BPF_MUL ...
#define BPF_DIV ...
#define BPF_OR ...
#define BPF_AND ...
#define BPF_LSH ...
#define BPF_NEG ...
#define BPF_MOD ...
#define BPF_XOR ...
#define BPF_ARSH ...
#define BPF_END ...
#define BPF_MOV ...
#define BPF_RSH ...
#define BPF_JA ...
#define BPF_JEQ ...
#define BPF_JGT ...
#define BPF_JGE ...
#define BPF_JSET ...
#define BPF_JNE ...
#define BPF_JSGT ...
#define BPF_JSGE ...
#define BPF_JLT ...
#define BPF_JLE ...
#define BPF_JSLT ...
#define BPF_JSLE ...
#define BPF_CALL ...
#define BPF_EXIT ...
#define BPF_K ...
#define BPF_X ...
#define BPF_PSEUDO_MAP_FD ...
#define BPF_PSEUDO_MAP_VALUE ...
#define BPF_PSEUDO_CALL ...
#define BPF_PSEUDO_FUNC ...

struct bpf_func_info { __u32 insn_off; __u32 type_id; ...; };

/* cffi allows no "..." beside bit fields; the compiler checks this one against the header. */
struct bpf_insn { __u8 code; __u8 dst_reg : 4; __u8 src_reg : 4; int16_t off; __s32 imm; };

struct bpf_prog_info {
    __u32 type;
    __u32 id;
    __u8 tag[8];
    __u32 jited_prog_len;
    __u32 xlated_prog_len;
    __u64 xlated_prog_insns;
    char name[...];
    __u64 load_time;
    __u32 created_by_uid;
    __u32 nr_map_ids;
    __u64 map_ids;
    __u32 btf_id;
    __u32 func_info_rec_size;
    __u64 func_info;
    __u32 nr_func_info;
    __u64 run_time_ns;
    __u64 run_cnt;
    __u64 recursion_misses; /* 5.12 */
    ...;
};

struct bpf_map_info {
    __u32 type;
    __u32 id;
    __u32 key_size;
    __u32 value_size;
    __u32 max_entries;
    __u32 map_flags;
    char name[...];
    __u32 btf_id;
    __u32 btf_key_type_id;
    __u32 btf_value_type_id;
    ...;
};

struct bpf_link_info { __u32 type; __u32 id; __u32 prog_id; ...; };
__u32 xdpscope_tracing_target(const struct bpf_link_info *info);
__u32 xdpscope_tracing_function(const struct bpf_link_info *info);

struct bpf_btf_info { __u32 id; ...; };

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

struct bpf_test_run_opts {
    size_t sz;
    const void *data_in;
    void *data_out;
    __u32 data_size_in;
    __u32 data_size_out;
    __u32 retval;
    int repeat;
    __u32 duration;
    ...;
};
int bpf_prog_test_run_opts(int prog_fd, struct bpf_test_run_opts *opts);

int bpf_link_create(int prog_fd, int target_fd, enum bpf_attach_type type, const void *opts);
int bpf_iter_create(int link_fd);

/* btf.h */
struct btf;
struct btf_type { __u32 name_off; __u32 type; __u32 size; ...; };
struct btf_member { __u32 name_off; __u32 type; ...; };
struct btf_array { __u32 type; __u32 index_type; __u32 nelems; };
struct btf_enum { __u32 name_off; __s32 val; };
struct btf_param { __u32 name_off; __u32 type; };
#define BTF_KIND_INT ...
#define BTF_KIND_PTR ...
#define BTF_KIND_TYPEDEF ...
#define BTF_KIND_VOLATILE ...
#define BTF_KIND_CONST ...
#define BTF_KIND_RESTRICT ...
#define BTF_KIND_TYPE_TAG ...
#define BTF_KIND_ENUM64 ...
#define BTF_KIND_FUNC_PROTO ...
#define BTF_KIND_ARRAY ...
#define BTF_KIND_STRUCT ...
#define BTF_KIND_UNION ...
#define BTF_KIND_ENUM ...
#define BTF_KIND_FUNC ...
struct btf *btf__load_vmlinux_btf(void);
struct btf *btf__load_from_kernel_by_id(__u32 id);
void btf__free(struct btf *btf);
__u32 btf__type_cnt(const struct btf *btf);
int btf__fd(const struct btf *btf);
const struct btf_type *btf__type_by_id(const struct btf *btf, __u32 id);
const char *btf__name_by_offset(const struct btf *btf, __u32 offset);
__s32 btf__find_by_name_kind(const struct btf *btf, const char *name, __u32 kind);
int btf__resolve_type(const struct btf *btf, __u32 type_id);
int xdpscope_btf_kind(const struct btf_type *t);
int xdpscope_btf_vlen(const struct btf_type *t);
int xdpscope_btf_int_signed(const struct btf_type *t);
const struct btf_member *xdpscope_btf_members(const struct btf_type *t);
const struct btf_array *xdpscope_btf_array(const struct btf_type *t);
const struct btf_enum *xdpscope_btf_enum(const struct btf_type *t);
const struct btf_param *xdpscope_btf_params(const struct btf_type *t);
__u32 xdpscope_btf_member_bit_offset(const struct btf_type *t, __u32 index);

/* libbpf.h: objects */
struct bpf_object;
struct bpf_program;
struct bpf_map;
struct bpf_object *bpf_object__open(const char *path);
int bpf_object__load(struct bpf_object *obj);
void bpf_object__close(struct bpf_object *obj);
struct btf *bpf_object__btf(const struct bpf_object *obj);
struct bpf_program *bpf_object__find_program_by_name(const struct bpf_object *obj,
                                                     const char *name);
struct bpf_map *bpf_object__find_map_by_name(const struct bpf_object *obj, const char *name);
int bpf_map__fd(const struct bpf_map *map);
const char *bpf_map__name(const struct bpf_map *map);
int bpf_map__reuse_fd(struct bpf_map *map, int fd);
struct bpf_map *bpf_object__next_map(const struct bpf_object *obj, const struct bpf_map *map);
int bpf_map__set_max_entries(struct bpf_map *map, __u32 max_entries);
int bpf_map__set_type(struct bpf_map *map, enum bpf_map_type type);
int bpf_map__set_value_size(struct bpf_map *map, __u32 size);
int bpf_map__set_initial_value(struct bpf_map *map, const void *data, size_t size);
struct bpf_program *bpf_object__next_program(const struct bpf_object *obj,
                                             struct bpf_program *prog);
const char *bpf_program__name(const struct bpf_program *prog);
int bpf_program__fd(const struct bpf_program *prog);
int bpf_program__set_autoload(struct bpf_program *prog, bool autoload);
int bpf_program__set_attach_target(struct bpf_program *prog, int attach_prog_fd,
                                   const char *attach_func_name);
int bpf_program__set_log_buf(struct bpf_program *prog, char *log_buf, size_t log_size);
const struct bpf_insn *bpf_program__insns(const struct bpf_program *prog);
size_t bpf_program__insn_cnt(const struct bpf_program *prog);
enum bpf_attach_type bpf_program__expected_attach_type(const struct bpf_program *prog);
int libbpf_num_possible_cpus(void);
const char *libbpf_bpf_attach_type_str(enum bpf_attach_type t);
const char *libbpf_bpf_map_type_str(enum bpf_map_type t);

/* libbpf.h: ring buffer */
struct ring_buffer;
extern "Python" int xdpscope_ring_sample(void *ctx, void *data, size_t size);
struct ring_buffer *xdpscope_ring_buffer_new(int map_fd, void *ctx);
void ring_buffer__free(struct ring_buffer *rb);
int ring_buffer__poll(struct ring_buffer *rb, int timeout_ms);
int ring_buffer__consume(struct ring_buffer *rb);
int ring_buffer__epoll_fd(const struct ring_buffer *rb);

/* _capture.c: packet records and pcapng */
struct capture_record {
    __u64 time; __u64 id; __u64 inside; __u32 target; __u32 ifindex; __u32 netns; __u32 queue;
    __u32 verdict; __u32 length; __u32 captured; __u32 lost; uint16_t cpu; __u8 point; __u8 flags;
    ...;
};
#define CAPTURE_SNAPLEN ...
#define CAPTURE_PIECE ...
struct xdpscope_rings;
struct xdpscope_rings *xdpscope_rings_new(const int *maps, int count, size_t size);
void xdpscope_rings_free(struct xdpscope_rings *rings);
size_t xdpscope_rings_read(struct xdpscope_rings *rings, uint8_t *to, size_t room, int all);

enum drained { DRAINED, DRAINED_UNKNOWN, DRAINED_LIMIT, DRAINED_ROTATE, DRAINED_EVENT };
struct xdpscope_writer {
    int counted_point; __u64 limit; __u64 packets; __u64 rotate_at; __u64 flushed;
    struct capture_record unknown; size_t used; __u32 history; __u32 events; __u64 verdicts[6];
    ...;
};
struct xdpscope_writer *xdpscope_writer_new(void);
void xdpscope_writer_free(struct xdpscope_writer *writer);
void xdpscope_writer_open(struct xdpscope_writer *writer, int fd);
int xdpscope_writer_keep(struct xdpscope_writer *writer, __u32 records);
int xdpscope_writer_release(struct xdpscope_writer *writer);
int xdpscope_writer_flush(struct xdpscope_writer *writer);
__u64 xdpscope_writer_whole(const struct xdpscope_writer *writer);
int xdpscope_writer_put(struct xdpscope_writer *writer, const uint8_t *blocks, size_t size);
int xdpscope_writer_interface(struct xdpscope_writer *writer, const struct capture_record *record,
                              __u32 number);
__u64 xdpscope_writer_packets(const struct xdpscope_writer *writer,
                              const struct capture_record *record);
int xdpscope_writer_drain(struct xdpscope_writer *writer, struct xdpscope_rings *rings, int all);
