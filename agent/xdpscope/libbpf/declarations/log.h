/* SPDX-License-Identifier: Apache-2.0 */
/* libbpf.h: version and log */

uint32_t libbpf_major_version(void);
uint32_t libbpf_minor_version(void);
const char *libbpf_version_string(void);
void xdpscope_capture_log(void);
extern "Python" void xdpscope_log(int level, const char *message);
