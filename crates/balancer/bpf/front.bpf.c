// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// The kernel shows its routes and neighbours (bpf_fib_lookup) to programs under the GPL alone, so
// this file, and no other, may be used under it as well.
//
// Sends packets for services on to backends before the kernel's network stack sees them.
//
//   eth / IPv4 / TCP | UDP to a service's address and port
//        │ known connection, its backend still there ─▶ that backend
//        └ else: Maglev's table ─▶ a backend, which is remembered
//                     │
//   routed: the backend's hardware address ◀┴▶ tunnelled: a second IPv4 header (IPIP)
//
// The packet itself stays as it is: the backend has the service's address and answers the client
// directly. Whatever belongs to no service is passed up. The structures are written by
// src/l4/front/kernel.rs; a test compares their lengths.

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 16381 /* A prime, as Maglev wants it. */
#define BACKENDS 4096
#define SERVICES 256

#define AF_INET 2
#define ICMP 1
#define TCP 6
#define UDP 17
#define IPIP 4
#define SYN 0x02
#define ACK 0x10

enum mode { ROUTED, TUNNELLED };

struct service_key {
	__be32 address;
	__be16 port;
	__u8 protocol;
	__u8 unused;
};

struct service {
	__u32 number; /* Of its table. */
	__u8 mode;
	__u8 by_address; /* A client's connections all go to one backend. */
	__u16 unused;
};

struct table {
	__u16 slots[SLOTS + 3]; /* Backends. */
};

struct backend {
	__be32 address;
	__u32 generation; /* Another one stood here before: its connections are not this one's. */
	__u32 there;
	__u32 service; /* Whose it is; not used here, read by a server that starts again. */
};

struct flow_key {
	__be32 client, address;
	__be16 client_port, port;
	__u8 protocol, unused[3];
};

struct flow {
	__u32 backend, generation;
};

struct load {
	__u64 packets, bytes, connections;
};

struct counts {
	__u64 no_backend;  /* Dropped: the service has none. */
	__u64 unreachable; /* Dropped: no way to the backend is known, or its neighbour is not. */
	__u64 too_large;   /* Dropped: with a second header it does not fit the way. */
	__u64 moved;       /* Known connections whose backend is gone. */
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, SERVICES);
	__type(key, struct service_key);
	__type(value, struct service);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, SERVICES);
	__type(key, __u32);
	__type(value, struct table);
} tables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct backend);
} backends SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct flow_key);
	__type(value, struct flow);
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BACKENDS);
	__type(key, __u32);
	__type(value, struct load);
} loads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counted SEC(".maps");

/* Where tunnels begin; set before the program is loaded. */
const volatile __be32 own = 0;

struct eth {
	__u8 target[6], source[6];
	__be16 protocol;
} __attribute__((packed));

struct ipv4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__be32 source, target;
};

/* What TCP and UDP begin with. */
struct ports {
	__be16 source, target;
};

struct icmp {
	__u8 type, code;
	__be16 check;
	__be32 rest;
};

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline __u64 sum_of(const struct ipv4 *ip)
{
	const __u32 *words = (const __u32 *)ip;
	return (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

static __always_inline struct counts *counts_of(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&counted, &zero);
}

/* The same on every machine, so that one front may take over from another. */
static __always_inline __u32 hash(__u64 word)
{
	word ^= word >> 32;
	word *= 0xd6e8feb86659fd93ULL;
	word ^= word >> 32;
	word *= 0xd6e8feb86659fd93ULL;
	word ^= word >> 32;
	return word;
}

static __always_inline struct backend *of_table(const struct service *service,
						const struct flow_key *key, __u32 *number)
{
	__u32 at = service->number;
	struct table *table = bpf_map_lookup_elem(&tables, &at);
	if (!table)
		return 0;
	__u64 word = (__u64)key->client << 32;
	if (!service->by_address)
		word |= (__u32)key->client_port << 16 | key->port;
	at = hash(word) % SLOTS;
	asm volatile("" : "+r"(at)); /* The verifier does not see the bound in the remainder. */
	if (at >= SLOTS)
		return 0;
	*number = table->slots[at];
	struct backend *backend = bpf_map_lookup_elem(&backends, number);
	return backend && backend->there ? backend : 0;
}

static __always_inline int send(struct xdp_md *ctx, const struct service *service, __u32 number,
				const struct backend *backend, int begun)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	if ((void *)(ip + 1) > end)
		return XDP_DROP;
	if (ip->ttl <= 1)
		return XDP_DROP; /* A backend that sends it back to us would do so for ever. */
	struct counts *counts = counts_of();
	int tunnelled = service->mode == TUNNELLED;
	__u32 here = ctx->ingress_ifindex;
	asm volatile("" : "+r"(here)); /* Or it would be read by a pointer that the verifier refuses. */
	__u32 length = bpf_ntohs(ip->length);
	struct bpf_fib_lookup way = {
		.family = AF_INET,
		.l4_protocol = tunnelled ? IPIP : ip->protocol,
		.tot_len = length + (tunnelled ? sizeof(*ip) : 0),
		.ifindex = here,
		.ipv4_src = tunnelled ? own : ip->source,
		.ipv4_dst = backend->address,
	};
	long found = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	if (found != BPF_FIB_LKUP_RET_SUCCESS) {
		if (counts) {
			if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
				counts->too_large++;
			else
				counts->unreachable++;
		}
		return XDP_DROP;
	}
	if (tunnelled) {
		struct ipv4 outer = {
			.version_ihl = 0x45,
			.length = bpf_htons(length + sizeof(outer)),
			.fragment = bpf_htons(0x4000),
			.ttl = 64,
			.protocol = IPIP,
			.source = own,
			.target = backend->address,
		};
		outer.check = fold(sum_of(&outer));
		if (bpf_xdp_adjust_head(ctx, -(int)sizeof(outer)))
			return XDP_DROP;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		eth = data;
		ip = (void *)(eth + 1);
		if ((void *)(ip + 1) > end)
			return XDP_DROP;
		*ip = outer;
		eth->protocol = bpf_htons(0x0800);
	} else {
		ip->ttl--;
		ip->check = 0;
		ip->check = fold(sum_of(ip));
	}
	__builtin_memcpy(eth->target, way.dmac, 6);
	__builtin_memcpy(eth->source, way.smac, 6);

	struct load *load = bpf_map_lookup_elem(&loads, &number);
	if (load) {
		load->packets++;
		load->bytes += length;
		load->connections += begun;
	}
	if (way.ifindex == here)
		return XDP_TX;
	return bpf_redirect(way.ifindex, 0);
}

/* An error that a router on the way back says belongs to the backend whose packet it was. */
static __always_inline int error(struct xdp_md *ctx, struct ipv4 *ip, void *end)
{
	struct icmp *icmp = (void *)(ip + 1);
	struct ipv4 *sent = (void *)(icmp + 1);
	struct ports *ports = (void *)(sent + 1);
	if ((void *)(ports + 1) > end || icmp->type != 3 || sent->version_ihl != 0x45 ||
	    (sent->protocol != TCP && sent->protocol != UDP) || sent->source != ip->target)
		return XDP_PASS;
	struct service_key to = { .address = sent->source,
				  .port = ports->source,
				  .protocol = sent->protocol };
	struct service *service = bpf_map_lookup_elem(&services, &to);
	if (!service)
		return XDP_PASS;
	struct flow_key key = { .client = sent->target,
				.address = sent->source,
				.client_port = ports->target,
				.port = ports->source,
				.protocol = sent->protocol };
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return XDP_DROP;
	__u32 number = flow->backend;
	struct backend *backend = bpf_map_lookup_elem(&backends, &number);
	if (!backend || !backend->there || backend->generation != flow->generation)
		return XDP_DROP;
	return send(ctx, service, number, backend, 0);
}

SEC("xdp")
int front(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	struct ports *ports = (void *)(ip + 1);
	if ((void *)(ports + 1) > end)
		return XDP_PASS;
	/* Options and fragments are left to the network stack. */
	if (eth->protocol != bpf_htons(0x0800) || (eth->target[0] & 1) ||
	    ip->version_ihl != 0x45 || (ip->fragment & ~bpf_htons(0x4000)) ||
	    (void *)ip + bpf_ntohs(ip->length) > end)
		return XDP_PASS;
	if (ip->protocol == ICMP)
		return error(ctx, ip, end);
	if (ip->protocol != TCP && ip->protocol != UDP)
		return XDP_PASS;
	struct service_key to = { .address = ip->target,
				  .port = ports->target,
				  .protocol = ip->protocol };
	struct service *service = bpf_map_lookup_elem(&services, &to);
	if (!service)
		return XDP_PASS;
	if (bpf_ntohs(ip->length) < sizeof(*ip) + 8 || fold(sum_of(ip)))
		return XDP_DROP;

	int opening = 0;
	if (ip->protocol == TCP) {
		__u8 *flags = (void *)ports + 13;
		if ((void *)(flags + 1) > end)
			return XDP_DROP;
		opening = (*flags & (SYN | ACK)) == SYN;
	}
	struct flow_key key = { .client = ip->source,
				.address = ip->target,
				.client_port = ports->source,
				.port = ports->target,
				.protocol = ip->protocol };
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (flow && !opening) {
		__u32 number = flow->backend;
		struct backend *backend = bpf_map_lookup_elem(&backends, &number);
		if (backend && backend->there && backend->generation == flow->generation)
			return send(ctx, service, number, backend, 0);
	}
	__u32 number = 0;
	struct backend *backend = of_table(service, &key, &number);
	if (!backend) {
		struct counts *counts = counts_of();
		if (counts)
			counts->no_backend++;
		return XDP_DROP;
	}
	if (flow && !opening) {
		struct counts *counts = counts_of();
		if (counts)
			counts->moved++;
	}
	int begun = !flow || flow->backend != number || flow->generation != backend->generation;
	if (begun) {
		struct flow new = { .backend = number, .generation = backend->generation };
		bpf_map_update_elem(&flows, &key, &new, BPF_ANY);
	}
	return send(ctx, service, number, backend, begun);
}

char _license[] SEC("license") = "GPL and additional rights";
