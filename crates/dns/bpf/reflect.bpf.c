// SPDX-License-Identifier: Apache-2.0
//
// Says each DNS question back to where it came from, knowing nothing: what the driver and the
// kernel alone cost. The floor that `./dev bench dns-xdp` compares with.

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

struct eth {
	__u8 target[6], source[6];
	__be16 protocol;
} __attribute__((packed));

SEC("xdp")
int reflect(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	__u8 *ip = data + sizeof(*eth);
	if ((void *)(ip + 40) > end || eth->protocol != bpf_htons(0x0800) || ip[0] != 0x45 ||
	    ip[9] != 17 || *(__be16 *)(ip + 22) != bpf_htons(53))
		return XDP_PASS;
	__u8 mac[6];
	__builtin_memcpy(mac, eth->target, 6);
	__builtin_memcpy(eth->target, eth->source, 6);
	__builtin_memcpy(eth->source, mac, 6);
	__be32 *addresses = (__be32 *)(ip + 12), source = addresses[0];
	addresses[0] = addresses[1];
	addresses[1] = source;
	__be16 *ports = (__be16 *)(ip + 20), from = ports[0];
	ports[0] = ports[1];
	ports[1] = from;
	ip[30] |= 0x80; /* A response. */
	return XDP_TX;
}

/* Lets everything through: with a program of its own an end of a cable takes what the other sends. */
SEC("xdp")
int pass(struct xdp_md *ctx)
{
	(void)ctx;
	return XDP_PASS;
}

char _license[] SEC("license") = "Apache-2.0";
