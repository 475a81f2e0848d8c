// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// One record for each task of the node, read through a BPF task iterator (kernel >= 5.8).
// No pause, no ptrace: the floating-point control word is the one that was saved when the task was
// last switched out. Only the kernel fields that are used are declared; where they stand is looked
// up in the running kernel's BTF when the program is loaded (CO-RE).

#include "types.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define CORE __attribute__((preserve_access_index))

struct seq_file;

struct bpf_iter_meta {
  struct seq_file *seq;
  __u64 session_id;
  __u64 seq_num;
} CORE;

struct kernfs_node {
  __u64 id;
} CORE;

// Before Linux 5.5 the id was a union.
union kernfs_node_id___old {
  __u64 id;
} CORE;

struct kernfs_node___old {
  union kernfs_node_id___old id;
} CORE;

struct cgroup {
  struct kernfs_node *kn;
} CORE;

struct css_set {
  struct cgroup *dfl_cgrp;
} CORE;

struct sched_entity {
  __u64 sum_exec_runtime;
} CORE;

struct signal_struct {
  __u64 sum_sched_runtime;
} CORE;

struct mm_struct {
  unsigned long start_code;
  unsigned long start_stack;
  unsigned long arg_start;
} CORE;

#if defined(__TARGET_ARCH_x86)

struct fxregs_state {
  __u32 mxcsr;
} CORE;

union fpregs_state {
  struct fxregs_state fxsave;
} CORE;

struct fpstate {
  union fpregs_state regs;
} CORE;

struct fpu {
  struct fpstate *fpstate;
} CORE;

// Before Linux 5.16 the state stood in struct fpu itself.
struct fpu___old {
  union fpregs_state state;
} CORE;

struct thread_struct {
  struct fpu fpu;
} CORE;

struct thread_struct___old {
  struct fpu___old fpu;
} CORE;

#elif defined(__TARGET_ARCH_arm64)

struct user_fpsimd_state {
  __u32 fpsr;
  __u32 fpcr;
} CORE;

struct thread_uw___uw {
  struct user_fpsimd_state fpsimd_state;
} CORE;

struct thread_struct {
  struct thread_uw___uw uw;
} CORE;

#endif

struct task_struct {
  struct sched_entity se;
  unsigned int flags;
  int pid;
  int tgid;
  __u64 start_time;
  __u64 start_boottime;
  unsigned long nvcsw;
  unsigned long nivcsw;
  char comm[16];
  struct task_struct *real_parent;
  struct mm_struct *mm;
  struct signal_struct *signal;
  struct css_set *cgroups;
  struct thread_struct thread;
} CORE;

// Before Linux 5.5.
struct task_struct___old {
  __u64 real_start_time;
} CORE;

// Linux 6.16 and later on x86: struct fpu follows struct task_struct, which has no field for it.
struct thread_struct___empty {
} CORE;

struct bpf_iter__task {
  struct bpf_iter_meta *meta;
  struct task_struct *task;
} CORE;

// task_iterator.py unpacks this: keep both alike. What belongs to the whole process stands in the
// record of its first thread only, and is 0 in the others.
struct record {
  __u64 started_ns;      // since boot
  __u64 cpu_ns;
  __u64 ended_cpu_ns;    // process: of its threads that have ended
  __u64 start_code;      // process: together these three change at every execve(2)
  __u64 start_stack;
  __u64 arg_start;
  __u64 cgroup;          // inode of its cgroup in the v2 tree
  __u32 tid;
  __u32 pid;
  __u32 flags;           // PF_*
  __u32 fp_control;      // MXCSR or FPCR
  __u32 has_fp_control;
  __u32 switches;        // how often it was switched out, modulo 2^32
  __u32 parent_pid;
  __u32 reserved;
  char comm[16];
};

static __always_inline __u32 fp_control(struct task_struct *task, __u32 *word) {
#if defined(__TARGET_ARCH_x86)
  struct fpu *fpu;
  struct fpstate *state;

  if (bpf_core_field_exists(((struct thread_struct___old *)0)->fpu.state)) {
    struct thread_struct___old *thread = (void *)&task->thread;
    *word = BPF_CORE_READ(thread, fpu.state.fxsave.mxcsr);
    return 1;
  }
  if (bpf_core_field_exists(((struct thread_struct *)0)->fpu))
    fpu = &task->thread.fpu;
  else
    fpu = (void *)task + bpf_core_type_size(struct task_struct);
  if (!bpf_core_field_exists(((struct fpu *)0)->fpstate))
    return 0;
  state = BPF_CORE_READ(fpu, fpstate);
  if (!state)
    return 0;
  *word = BPF_CORE_READ(state, regs.fxsave.mxcsr);
  return 1;
#elif defined(__TARGET_ARCH_arm64)
  if (!bpf_core_field_exists(task->thread.uw.fpsimd_state.fpcr))
    return 0;
  *word = BPF_CORE_READ(task, thread.uw.fpsimd_state.fpcr);
  return 1;
#else
  return 0;
#endif
}

static __always_inline __u64 started_ns(struct task_struct *task) {
  struct task_struct___old *old = (void *)task;

  if (bpf_core_field_exists(task->start_boottime))
    return BPF_CORE_READ(task, start_boottime);
  if (bpf_core_field_exists(old->real_start_time))
    return BPF_CORE_READ(old, real_start_time);
  return 0;
}

static __always_inline __u64 cgroup_inode(struct task_struct *task) {
  struct kernfs_node *node = BPF_CORE_READ(task, cgroups, dfl_cgrp, kn);
  struct kernfs_node___old *old = (void *)node;

  if (bpf_core_field_exists(old->id.id))
    return BPF_CORE_READ(old, id.id);
  return BPF_CORE_READ(node, id);
}

static __always_inline void read_process(struct task_struct *task, struct record *record) {
  struct mm_struct *mm = BPF_CORE_READ(task, mm);

  record->ended_cpu_ns = BPF_CORE_READ(task, signal, sum_sched_runtime);
  if (!mm)
    return;
  record->start_code = BPF_CORE_READ(mm, start_code);
  record->start_stack = BPF_CORE_READ(mm, start_stack);
  record->arg_start = BPF_CORE_READ(mm, arg_start);
}

SEC("iter/task")
int tasks(struct bpf_iter__task *context) {
  struct task_struct *task = context->task;
  struct record record = {};

  if (!task)
    return 0;
  record.tid = BPF_CORE_READ(task, pid);
  record.pid = BPF_CORE_READ(task, tgid);
  record.flags = BPF_CORE_READ(task, flags);
  record.started_ns = started_ns(task);
  record.cpu_ns = BPF_CORE_READ(task, se.sum_exec_runtime);
  record.cgroup = cgroup_inode(task);
  record.has_fp_control = fp_control(task, &record.fp_control);
  record.switches = BPF_CORE_READ(task, nvcsw) + BPF_CORE_READ(task, nivcsw);
  record.parent_pid = BPF_CORE_READ(task, real_parent, tgid);
  bpf_core_read_str(record.comm, sizeof(record.comm), &task->comm);
  if (record.tid == record.pid)
    read_process(task, &record);
  bpf_seq_write(context->meta->seq, &record, sizeof(record));
  return 0;
}

char _license[] SEC("license") = "GPL";
