// SPDX-License-Identifier: GPL-2.0-only OR Apache-2.0
//
// One record for each TCP, raw and packet socket that a process has open, in whatever network
// namespace, read through a BPF iterator over open files. It needs bpf_sock_from_file (Linux 5.11),
// so it is an object of its own. No lock of a socket is taken: counters are as they stand.

#include "types.h"

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>

#define CORE __attribute__((preserve_access_index))
#define AF_INET 2
#define AF_INET6 10
#define AF_PACKET 17
#define SOCK_STREAM 1
#define SOCK_RAW 3
#define IPPROTO_TCP 6
#define IPPROTO_MPTCP 262

struct seq_file;

struct bpf_iter_meta {
  struct seq_file *seq;
} CORE;

struct task_struct {
  int tgid;
} CORE;

struct inode {
  unsigned long i_ino;
} CORE;

struct file {
  struct inode *f_inode;
} CORE;

struct ns_common {
  unsigned int inum;
} CORE;

struct net {
  struct ns_common ns;
} CORE;

typedef struct {
  struct net *net;
} possible_net_t;

struct in6_addr {
  __u8 bytes[16];
};

struct sock_common {
  __be32 skc_daddr;
  __be16 skc_dport;
  __u16 skc_num;
  unsigned short skc_family;
  volatile unsigned char skc_state;
  possible_net_t skc_net;
  struct in6_addr skc_v6_daddr;
} CORE;

struct sock {
  struct sock_common __sk_common;
  __u16 sk_protocol;  // before Linux 5.6 a field of 8 bits
} CORE;

struct tcp_sock {
  __u64 bytes_received;
  __u64 bytes_acked;
  __u32 data_segs_in;
  __u32 data_segs_out;
  __u32 srtt_us;
  __u32 snd_una;
} CORE;

struct socket {
  short type;
  struct sock *sk;
} CORE;

struct bpf_iter__task_file {
  struct bpf_iter_meta *meta;
  struct task_struct *task;
  __u32 fd;
  struct file *file;
} CORE;

// socket_iterator.py unpacks this: keep the two alike.
struct record {
  __u64 inode;
  __u64 received_bytes;
  __u64 sent_bytes;      // that the other end has acknowledged
  __u32 received_segments;  // with data
  __u32 sent_segments;
  __u32 namespace;       // inode of its network namespace
  __u32 pid;
  __u32 round_trip_us;   // smoothed; 0: not known
  __u16 local_port;
  __u16 remote_port;
  __u8 state;            // include/net/tcp_states.h; of others than TCP it means nothing
  __u8 is_raw;           // a raw socket or a packet socket
  __u8 has_counters;     // multipath TCP has them in sockets that no process has open
  __u8 reserved;
  __u32 initial_sequence;  // of the SYN that was sent, if it opened the connection
  __u8 remote[16];       // IPv4 as ::ffff:a.b.c.d
};

SEC("iter/task_file")
int sockets(struct bpf_iter__task_file *context) {
  struct task_struct *task = context->task;
  struct file *file = context->file;
  struct record record = {};
  struct socket *socket;
  struct tcp_sock *tcp;
  struct sock *sk;
  __u16 family, protocol = 0;

  if (!task || !file)
    return 0;
  socket = bpf_sock_from_file(file);
  if (!socket)
    return 0;
  sk = socket->sk;
  if (!sk)
    return 0;
  family = sk->__sk_common.skc_family;
  if (family != AF_INET && family != AF_INET6 && family != AF_PACKET)
    return 0;
  record.is_raw = socket->type == SOCK_RAW || family == AF_PACKET;
  if (!record.is_raw && socket->type != SOCK_STREAM)
    return 0;
  if (family != AF_PACKET)
    protocol = BPF_CORE_READ_BITFIELD_PROBED(sk, sk_protocol);
  record.inode = file->f_inode->i_ino;
  record.namespace = sk->__sk_common.skc_net.net->ns.inum;
  record.pid = task->tgid;
  record.state = sk->__sk_common.skc_state;
  if (record.is_raw) {
    bpf_seq_write(context->meta->seq, &record, sizeof(record));
    return 0;
  }
  if (protocol != IPPROTO_TCP && protocol != IPPROTO_MPTCP)
    return 0;
  record.local_port = sk->__sk_common.skc_num;
  record.remote_port = __builtin_bswap16(sk->__sk_common.skc_dport);
  if (family == AF_INET6) {
    bpf_core_read(record.remote, sizeof(record.remote), &sk->__sk_common.skc_v6_daddr);
  } else {
    record.remote[10] = record.remote[11] = 0xff;
    *(__u32 *)&record.remote[12] = sk->__sk_common.skc_daddr;
  }
  tcp = bpf_skc_to_tcp_sock(sk);
  if (tcp) {
    record.has_counters = 1;
    record.received_bytes = tcp->bytes_received;
    record.sent_bytes = tcp->bytes_acked;
    record.received_segments = tcp->data_segs_in;
    record.sent_segments = tcp->data_segs_out;
    record.round_trip_us = tcp->srtt_us >> 3;
    record.initial_sequence = tcp->snd_una - (__u32)tcp->bytes_acked;
  }
  bpf_seq_write(context->meta->seq, &record, sizeof(record));
  return 0;
}

char _license[] SEC("license") = "GPL";
