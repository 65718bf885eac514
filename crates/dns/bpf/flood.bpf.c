// SPDX-License-Identifier: Apache-2.0
//
// Asks and counts answers for `./dev bench dns-xdp`. `ask` is not attached: the kernel is told to
// run it so many times and to send each frame it makes (BPF_F_TEST_XDP_LIVE_FRAMES), which no
// socket does as fast. `count` takes the answers off the interface.

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define FRAME 80 /* Ethernet, IPv4, UDP, header, `n00000.bench.example A`. */
#define DIGITS 56 /* Behind the label's length and its first letter. */

/* The frame, which is written anew each time: a frame comes back as the last one left it. */
const volatile __u64 frame[FRAME / 8] = {};

struct counts {
	__u64 answered;
	__u64 wrong;
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counted SEC(".maps");

/* When the next frame is due, how long after it the one behind, and how many names are asked for;
 * set before each round. */
struct pace {
	__u64 due;
	__u64 interval;
	__u64 names;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pace);
} paced SEC(".maps");

#define LATE 1000000 /* What could not be sent within a millisecond is not made up for. */
#define LOOKS 4096

SEC("xdp")
int ask(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u64 *words = data;
	__u8 *bytes = data;
	if (data + FRAME > end)
		return XDP_DROP;
#pragma unroll
	for (int i = 0; i < FRAME / 8; i++)
		words[i] = frame[i];
	__u32 zero = 0;
	struct pace *pace = bpf_map_lookup_elem(&paced, &zero);
	if (!pace)
		return XDP_DROP;
	/* Starting the program costs milliseconds, so one start must do for a whole round. */
	__u64 now = bpf_ktime_get_ns();
	for (int i = 0; i < LOOKS && now < pace->due; i++)
		now = bpf_ktime_get_ns();
	pace->due = (now > pace->due + LATE ? now : pace->due) + pace->interval;
	__u32 number = bpf_get_prandom_u32();
	*(__u16 *)(bytes + 42) = number; /* The message's id. */
	number = ((__u64)number * (__u32)pace->names) >> 32;
#pragma unroll
	for (int i = 4; i >= 0; i--) {
		bytes[DIGITS + i] = '0' + number % 10;
		number /= 10;
	}
	return XDP_TX;
}

SEC("xdp")
int count(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	__u8 *bytes = data;
	if (data + 54 > end || bytes[12] != 8 || bytes[13] || bytes[23] != 17 || bytes[34] ||
	    bytes[35] != 53)
		return XDP_PASS;
	__u32 zero = 0;
	struct counts *counts = bpf_map_lookup_elem(&counted, &zero);
	if (counts) {
		/* A response without an error. */
		if ((bytes[44] & 0x80) && !(bytes[45] & 15))
			counts->answered++;
		else
			counts->wrong++;
	}
	return XDP_DROP;
}

char _license[] SEC("license") = "Apache-2.0";
