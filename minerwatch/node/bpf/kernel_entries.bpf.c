// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// Where each task of user space was interrupted when it last entered the kernel, read through a BPF
// task iterator. There is no address of one that called the kernel: it chooses where it does that.
// It needs bpf_task_pt_regs (Linux 5.15), so it is an object of its own: kernels that lack it still
// load task_iterator.bpf.c.

#include "types.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define CORE __attribute__((preserve_access_index))
#define PF_KTHREAD 0x00200000

struct seq_file;

struct bpf_iter_meta {
  struct seq_file *seq;
} CORE;

struct sched_entity {
  __u64 sum_exec_runtime;
} CORE;

struct task_struct {
  struct sched_entity se;
  unsigned int flags;
  int pid;
  int tgid;
} CORE;

struct bpf_iter__task {
  struct bpf_iter_meta *meta;
  struct task_struct *task;
} CORE;

#if defined(__TARGET_ARCH_x86)

struct pt_regs {
  unsigned long ip;
  unsigned long cs;
  unsigned long orig_ax;
} CORE;

#define ADDRESS(regs) BPF_CORE_READ(regs, ip)
#define IS_USER_MODE(regs) ((BPF_CORE_READ(regs, cs) & 3) == 3)
#define IS_SYSTEM_CALL(regs) ((long)BPF_CORE_READ(regs, orig_ax) >= 0)

#elif defined(__TARGET_ARCH_arm64)

struct pt_regs {
  __u64 pc;
  __u64 pstate;
  __s32 syscallno;
} CORE;

#define ADDRESS(regs) BPF_CORE_READ(regs, pc)
#define IS_USER_MODE(regs) ((BPF_CORE_READ(regs, pstate) & 0xf) == 0)
#define IS_SYSTEM_CALL(regs) (BPF_CORE_READ(regs, syscallno) >= 0)

#endif

// kernel_entries.py unpacks this: keep the two alike.
struct record {
  __u64 cpu_ns;
  __u64 address;  // 0: it called the kernel
  __u32 tid;
  __u32 pid;
};

SEC("iter/task")
int code(struct bpf_iter__task *context) {
  struct task_struct *task = context->task;
  struct record record = {};
  struct pt_regs *regs;

  if (!task || (task->flags & PF_KTHREAD))
    return 0;
  regs = (struct pt_regs *)bpf_task_pt_regs(task);
  if (!regs || !IS_USER_MODE(regs))
    return 0;
  record.cpu_ns = task->se.sum_exec_runtime;
  if (!IS_SYSTEM_CALL(regs))
    record.address = ADDRESS(regs);
  record.tid = task->pid;
  record.pid = task->tgid;
  bpf_seq_write(context->meta->seq, &record, sizeof(record));
  return 0;
}

char _license[] SEC("license") = "GPL";
