// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// The code at the address that a perf event samples, copied while it is executed: a moment later it
// may have moved, changed, or gone with its process. It needs ring buffers (Linux 5.8), and no BTF
// of the kernel.

#include "types.h"

#include <bpf/bpf_helpers.h>

#define CODE_BYTES 128
#define PAGE_BYTES 4096
#define BPF_MAP_TYPE_ARRAY 2
#define BPF_MAP_TYPE_RINGBUF 27
#define BPF_RB_NO_WAKEUP 1
#define SEGMENT_OF_32_BITS 0x23  // __USER32_CS (arch/x86/include/asm/segment.h)
#define CODE_OF_32_BITS (1ULL << 63)

// struct bpf_perf_event_data (include/uapi/linux/bpf_perf_event.h) begins with these.
struct registers {
#if defined(__TARGET_ARCH_x86)
  __u64 others[16];
  __u64 address;  // ip of struct pt_regs
  __u64 segment;  // cs
#elif defined(__TARGET_ARCH_arm64)
  __u64 others[32];
  __u64 address;  // pc of struct user_pt_regs
#endif
};

// executed_code.py unpacks this: keep the two alike.
struct record {
  __u64 address;  // with CODE_OF_32_BITS as model.py has it
  __u64 cgroup;
  __u32 pid;
  __u32 code_bytes : 8;  // 0: it could not be read
  __u32 tid : 24;  // PID_MAX_LIMIT is 2^22
  __u8 code[CODE_BYTES];
};

struct {
  __uint(type, BPF_MAP_TYPE_RINGBUF);
  __uint(max_entries, 1 << 16);  // another size is set before it is loaded
} records SEC(".maps");

struct {
  __uint(type, BPF_MAP_TYPE_ARRAY);
  __uint(max_entries, 1);
  __type(key, __u32);
  __type(value, __u64);
} lost SEC(".maps");

SEC("perf_event")
int executed(struct registers *registers) {
  struct record *record = bpf_ringbuf_reserve(&records, sizeof(*record), 0);
  __u32 in_page;
  __u64 ids;

  if (!record) {
    __u32 first = 0;
    __u64 *count = bpf_map_lookup_elem(&lost, &first);
    if (count)
      __sync_fetch_and_add(count, 1);
    return 0;
  }
  record->address = registers->address;
  record->cgroup = bpf_get_current_cgroup_id();
  ids = bpf_get_current_pid_tgid();
  record->pid = ids >> 32;
  record->tid = ids;
  record->code_bytes = CODE_BYTES;
#if defined(__TARGET_ARCH_x86)
  // A segment of the process's own (modify_ldt(2)) begins anywhere: this is not the address.
  if (registers->segment & 4)
    record->address = -1;
#endif
  if (bpf_probe_read_user(record->code, CODE_BYTES, (void *)record->address)) {
    // The next page may be missing.
    in_page = PAGE_BYTES - (record->address & (PAGE_BYTES - 1));
    record->code_bytes = 0;
    if (in_page < CODE_BYTES &&
        !bpf_probe_read_user(record->code, in_page & (CODE_BYTES - 1), (void *)record->address))
      record->code_bytes = in_page;
  }
#if defined(__TARGET_ARCH_x86)
  if ((registers->segment & 0xffff) == SEGMENT_OF_32_BITS)
    record->address |= CODE_OF_32_BITS;
#endif
  bpf_ringbuf_submit(record, BPF_RB_NO_WAKEUP);
  return 0;  // no sample of perf's own
}

char _license[] SEC("license") = "GPL";
