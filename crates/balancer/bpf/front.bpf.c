// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
//
// The kernel shows its routes and neighbours (bpf_fib_lookup) to programs under the GPL alone, so
// this file, and no other, may be used under it as well.
//
// Sends packets for services on to backends before the kernel's network stack sees them.
//
//   eth / IPv4 | IPv6 / TCP | UDP to a service's address and port
//        │ known connection, its backend still there ─▶ that backend
//        └ else: Maglev's table ─▶ a backend, which is remembered
//                     │
//   routed: the backend's hardware address ◀┼▶ tunnelled: a second header (IPIP, or IPv6 in IPv6)
//                                           ▼
//              translated: from an address and port of ours to the backend's
//
// Routed and tunnelled, the packet itself stays as it is: the backend has the service's address and
// answers the client directly. Translated, the backend answers us, and what it says goes back to
// the client as the service's. Whatever belongs to no service is passed up. The structures are
// written by src/l4/front/kernel.rs; a test compares their lengths.

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define SLOTS 16381 /* A prime, as Maglev wants it. */
#define BACKENDS 4096
#define SERVICES 256

#define AF_INET 2
#define AF_INET6 10
#define ICMP 1
#define TCP 6
#define UDP 17
#define ICMP6 58
#define IPIP 4
#define IPV6_IN 41
#define FIN 0x01
#define SYN 0x02
#define RST 0x04
#define ACK 0x10

/* A port of ours is another connection's after so many seconds of silence. */
#define AFTER_END 60
#define AFTER_UDP 180
#define AFTER_TCP 3600
/* So many ports are looked at for one that is free. */
#define TRIES 32

enum mode { ROUTED, TUNNELLED, TRANSLATED };

/* IPv4 as ::ffff:a.b.c.d. */
struct address {
	__be32 words[4];
};

struct service_key {
	struct address address;
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
	struct address address;
	__u32 generation; /* Another one stood here before: its connections are not this one's. */
	__u32 there;
	__u32 service; /* Whose it is; not used here, read by a server that starts again. */
	__be16 port;   /* Translated. */
	__u16 unused;
};

struct flow_key {
	struct address client, address;
	__be16 client_port, port;
	__u8 protocol, unused[3];
};

struct flow {
	__u32 backend, generation;
	__be16 port; /* Ours, translated. */
	__u16 unused;
};

/* What a backend answers to. */
struct back_key {
	struct address backend;
	__be16 backend_port, port;
	__u8 protocol, unused[3];
};

struct back {
	struct flow_key flow;
	__u32 seen; /* Seconds. */
	__u32 over; /* Somebody has ended it. */
};

struct load {
	__u64 packets, bytes, connections;
};

struct counts {
	__u64 no_backend;  /* Dropped: the service has none. */
	__u64 unreachable; /* Dropped: no way to the backend is known, or its neighbour is not. */
	__u64 too_large;   /* Dropped: with a second header it does not fit the way. */
	__u64 moved;       /* Known connections whose backend is gone. */
	__u64 no_port;     /* Dropped: all ports of ours towards the backend are taken. */
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
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 262144);
	__type(key, struct back_key);
	__type(value, struct back);
} backs SEC(".maps");

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

/* The port that a core tries next. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} turns SEC(".maps");

/* Where tunnels begin and translated connections come from; set before the program is loaded. */
const volatile struct address own = {};
const volatile struct address own6 = {};
/* The ports of translated connections: each core has so many of its own. */
const volatile __u32 first_port = 61000;
const volatile __u32 core_ports = 1024;
const volatile __u32 cores = 1;

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

struct ipv6 {
	__be32 flow; /* The version is its first four bits. */
	__be16 length;
	__u8 protocol, ttl;
	struct address source, target;
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

/* Both ends of a packet; their checksum is that of the pseudo-header and the ports. */
struct ends {
	struct address source, target;
	__be16 source_port, target_port;
};

struct packet {
	struct ends ends;
	__u32 length; /* With its IP header. */
	__u8 v6, protocol, flags;
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

static __always_inline struct address mapped(__be32 address)
{
	struct address whole = { .words = { 0, 0, bpf_htonl(0xffff), address } };
	return whole;
}

static __always_inline int same(const struct address *one, const volatile struct address *two)
{
	return one->words[0] == two->words[0] && one->words[1] == two->words[1] &&
	       one->words[2] == two->words[2] && one->words[3] == two->words[3];
}

/* Word by word: of a structure that is copied whole clang takes what it was initialised with. */
static __always_inline struct address ours(int v6)
{
	struct address whole;
	if (v6) {
		whole.words[0] = own6.words[0];
		whole.words[1] = own6.words[1];
		whole.words[2] = own6.words[2];
		whole.words[3] = own6.words[3];
	} else {
		whole.words[0] = own.words[0];
		whole.words[1] = own.words[1];
		whole.words[2] = own.words[2];
		whole.words[3] = own.words[3];
	}
	return whole;
}

static __always_inline int is_flow(const struct flow_key *one, const struct flow_key *two)
{
	return same(&one->client, &two->client) && same(&one->address, &two->address) &&
	       one->client_port == two->client_port && one->port == two->port;
}

static __always_inline struct counts *counts_of(void)
{
	__u32 zero = 0;
	return bpf_map_lookup_elem(&counted, &zero);
}

static __always_inline __u32 seconds(void)
{
	return bpf_ktime_get_coarse_ns() / 1000000000;
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
						const struct flow_key *key, int v6, __u32 *number)
{
	__u32 at = service->number;
	struct table *table = bpf_map_lookup_elem(&tables, &at);
	if (!table)
		return 0;
	const __be32 *client = key->client.words;
	__u64 word = (__u64)client[3] << 32;
	if (v6)
		word ^= (__u64)hash((__u64)client[0] << 32 | client[1]) << 32 ^
			(__u64)hash(client[2]) << 31;
	if (!service->by_address)
		word ^= (__u32)key->client_port << 16 | key->port;
	at = hash(word) % SLOTS;
	asm volatile("" : "+r"(at)); /* The verifier does not see the bound in the remainder. */
	if (at >= SLOTS)
		return 0;
	*number = table->slots[at];
	struct backend *backend = bpf_map_lookup_elem(&backends, number);
	return backend && backend->there ? backend : 0;
}

/* Sends a packet on by the way to that address, in a second header if it is to be. */
static __always_inline int send(struct xdp_md *ctx, const struct packet *packet,
				const struct address *to, int mode)
{
	int v6 = packet->v6, tunnelled = mode == TUNNELLED;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	struct ipv6 *ip6 = (void *)(eth + 1);
	/* What has less than IPv6's header is IPv4 with eight bytes at least. */
	if (v6 ? (void *)(ip6 + 1) > end : (void *)(ip + 1) > end)
		return XDP_DROP;
	if ((v6 ? ip6->ttl : ip->ttl) <= 1)
		return XDP_DROP; /* A backend that sends it back to us would do so for ever. */
	__u32 here = ctx->ingress_ifindex;
	asm volatile("" : "+r"(here)); /* Or it would be read by a pointer that the verifier refuses. */
	__u32 length = packet->length;
	__u32 further = !tunnelled ? 0 : v6 ? sizeof(*ip6) : sizeof(*ip);
	struct bpf_fib_lookup way = {
		.family = v6 ? AF_INET6 : AF_INET,
		.l4_protocol = !tunnelled ? packet->protocol : v6 ? IPV6_IN : IPIP,
		.tot_len = length + further,
		.ifindex = here,
	};
	if (v6) {
		__builtin_memcpy(way.ipv6_dst, to, sizeof(*to));
		if (tunnelled) {
			struct address from = ours(1);
			__builtin_memcpy(way.ipv6_src, &from, sizeof(from));
		} else {
			__builtin_memcpy(way.ipv6_src, &ip6->source, sizeof(ip6->source));
		}
	} else {
		way.ipv4_src = tunnelled ? own.words[3] : ip->source;
		way.ipv4_dst = to->words[3];
	}
	long found = bpf_fib_lookup(ctx, &way, sizeof(way), 0);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH && mode == TRANSLATED) {
		/* A packet like any other by now: the kernel finds the neighbour, and sends it. */
		if (!v6) {
			ip->check = 0;
			ip->check = fold(sum_of(ip));
		}
		return XDP_PASS;
	}
	if (found != BPF_FIB_LKUP_RET_SUCCESS) {
		struct counts *counts = counts_of();
		if (counts) {
			if (found == BPF_FIB_LKUP_RET_FRAG_NEEDED)
				counts->too_large++;
			else
				counts->unreachable++;
		}
		return XDP_DROP;
	}
	if (tunnelled) {
		if (bpf_xdp_adjust_head(ctx, v6 ? -(int)sizeof(*ip6) : -(int)sizeof(*ip)))
			return XDP_DROP;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		eth = data;
		ip = (void *)(eth + 1);
		ip6 = (void *)(eth + 1);
		if (v6) {
			if ((void *)(ip6 + 1) > end)
				return XDP_DROP;
			ip6->flow = bpf_htonl(0x60000000);
			ip6->length = bpf_htons(length);
			ip6->protocol = IPV6_IN;
			ip6->ttl = 64;
			ip6->source = ours(1);
			ip6->target = *to;
			eth->protocol = bpf_htons(0x86DD);
		} else {
			if ((void *)(ip + 1) > end)
				return XDP_DROP;
			struct ipv4 outer = {
				.version_ihl = 0x45,
				.length = bpf_htons(length + sizeof(outer)),
				.fragment = bpf_htons(0x4000),
				.ttl = 64,
				.protocol = IPIP,
				.source = own.words[3],
				.target = to->words[3],
			};
			outer.check = fold(sum_of(&outer));
			*ip = outer;
			eth->protocol = bpf_htons(0x0800);
		}
	} else if (v6) {
		ip6->ttl--;
	} else {
		ip->ttl--;
		ip->check = 0;
		ip->check = fold(sum_of(ip));
	}
	__builtin_memcpy(eth->target, way.dmac, 6);
	__builtin_memcpy(eth->source, way.smac, 6);
	if (way.ifindex == here)
		return XDP_TX;
	return bpf_redirect(way.ifindex, 0);
}

/* Gives the packet other ends; 0 when it is no whole packet. */
static __always_inline int rewrite(struct xdp_md *ctx, const struct packet *packet,
				   const struct ends *to)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	struct ipv6 *ip6 = (void *)(eth + 1);
	struct ports *ports = packet->v6 ? (void *)(ip6 + 1) : (void *)(ip + 1);
	if ((void *)ports + 8 > end)
		return 0;
	if (packet->v6) {
		ip6->source = to->source;
		ip6->target = to->target;
	} else {
		/* The header's own sum is made anew when the packet is sent. */
		ip->source = to->source.words[3];
		ip->target = to->target.words[3];
	}
	ports->source = to->source_port;
	ports->target = to->target_port;
	__be16 *check = (void *)ports + (packet->protocol == TCP ? 16 : 6);
	if ((void *)(check + 1) > end)
		return 0;
	/* UDP over IPv4 may have none. */
	if (packet->protocol == UDP && !*check)
		return 1;
	struct ends from = packet->ends;
	__s64 change = bpf_csum_diff((void *)&from, sizeof(from), (void *)to, sizeof(*to), 0);
	if (change < 0)
		return 0;
	__u16 sum = fold((__u64)(__u16)~*check + (__u32)change);
	*check = packet->protocol == UDP && !sum ? 0xffff : sum;
	return 1;
}

/* Whether another connection may have its port. */
static __always_inline int is_left(const struct back *back, __u8 protocol, __u32 now)
{
	__u32 silent = now - back->seen;
	if (silent > 0x7fffffff)
		return 0; /* Seen on another core, a moment later. */
	if (protocol == UDP)
		return silent > AFTER_UDP;
	return silent > (back->over ? AFTER_END : AFTER_TCP);
}

/* Finds a port of ours that the backend knows no other connection by; 0 when there is none. */
static __always_inline int take_port(struct back_key *at, const struct flow_key *key, __u32 now)
{
	__u32 zero = 0;
	__u32 *turn = bpf_map_lookup_elem(&turns, &zero);
	if (!turn || !cores || !core_ports)
		return 0;
	__u32 first = first_port + bpf_get_smp_processor_id() % cores * core_ports;
	struct back new = { .flow = *key, .seen = now };
	for (int tries = 0; tries < TRIES; tries++) {
		at->port = bpf_htons(first + (*turn)++ % core_ports);
		struct back *known = bpf_map_lookup_elem(&backs, at);
		if (known && !is_left(known, key->protocol, now))
			continue;
		if (!bpf_map_update_elem(&backs, at, &new, known ? BPF_ANY : BPF_NOEXIST))
			return 1;
	}
	return 0;
}

static __always_inline void note(struct back *back, __u32 now, __u8 flags)
{
	/* What did not change is not written: other cores have it in their caches. */
	if (back->seen != now)
		back->seen = now;
	__u32 over = flags & SYN ? 0 : back->over | (flags & (FIN | RST));
	if (back->over != over)
		back->over = over;
}

/* A client's packet, from us to the backend; 0 when there is no port for it. */
static __always_inline int outward(struct xdp_md *ctx, const struct packet *packet,
				   const struct flow_key *key, const struct backend *backend,
				   __be16 *port)
{
	__u32 now = seconds();
	struct back_key at = { .backend = backend->address,
			       .backend_port = backend->port,
			       .port = *port,
			       .protocol = packet->protocol };
	struct back *back = *port ? bpf_map_lookup_elem(&backs, &at) : 0;
	/* It may have been forgotten, and the port be another's since. */
	if (back && is_flow(&back->flow, key))
		note(back, now, packet->flags);
	else if (!take_port(&at, key, now))
		return 0;
	*port = at.port;
	struct ends to = { .source = ours(packet->v6),
			   .target = backend->address,
			   .source_port = at.port,
			   .target_port = backend->port };
	return rewrite(ctx, packet, &to);
}

/* A packet that is no service's: a backend's answer to us, or somebody else's. */
static __always_inline int inward(struct xdp_md *ctx, struct packet *packet)
{
	__u32 port = bpf_ntohs(packet->ends.target_port);
	if (port < first_port || port >= first_port + cores * core_ports)
		return XDP_PASS;
	if (!same(&packet->ends.target, packet->v6 ? &own6 : &own))
		return XDP_PASS;
	struct back_key at = { .backend = packet->ends.source,
			       .backend_port = packet->ends.source_port,
			       .port = packet->ends.target_port,
			       .protocol = packet->protocol };
	struct back *back = bpf_map_lookup_elem(&backs, &at);
	if (!back)
		return XDP_PASS;
	note(back, seconds(), packet->flags & ~SYN);
	struct ends to = { .source = back->flow.address,
			   .target = back->flow.client,
			   .source_port = back->flow.port,
			   .target_port = back->flow.client_port };
	if (!rewrite(ctx, packet, &to))
		return XDP_DROP;
	return send(ctx, packet, &to.target, TRANSLATED);
}

/* An error that a router on the way back says belongs to the backend whose packet it was. */
static __always_inline int error(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct flow_key key = {};
	if (packet->v6) {
		struct ipv6 *ip6 = (void *)(eth + 1);
		struct icmp *icmp = (void *)(ip6 + 1);
		struct ipv6 *sent = (void *)(icmp + 1);
		struct ports *ports = (void *)(sent + 1);
		/* Unreachable, too big, too many hops. */
		if ((void *)(ports + 1) > end || icmp->type < 1 || icmp->type > 3)
			return XDP_PASS;
		key.client = sent->target;
		key.address = sent->source;
		key.protocol = sent->protocol;
		key.client_port = ports->target;
		key.port = ports->source;
	} else {
		struct ipv4 *ip = (void *)(eth + 1);
		struct icmp *icmp = (void *)(ip + 1);
		struct ipv4 *sent = (void *)(icmp + 1);
		struct ports *ports = (void *)(sent + 1);
		if ((void *)(ports + 1) > end || icmp->type != 3 || sent->version_ihl != 0x45)
			return XDP_PASS;
		key.client = mapped(sent->target);
		key.address = mapped(sent->source);
		key.protocol = sent->protocol;
		key.client_port = ports->target;
		key.port = ports->source;
	}
	if ((key.protocol != TCP && key.protocol != UDP) ||
	    !same(&key.address, &packet->ends.target))
		return XDP_PASS;
	struct service_key to = { .address = key.address,
				  .port = key.port,
				  .protocol = key.protocol };
	struct service *service = bpf_map_lookup_elem(&services, &to);
	if (!service || service->mode == TRANSLATED)
		return XDP_PASS;
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	if (!flow)
		return XDP_DROP;
	__u32 number = flow->backend;
	struct backend *backend = bpf_map_lookup_elem(&backends, &number);
	if (!backend || !backend->there || backend->generation != flow->generation)
		return XDP_DROP;
	return send(ctx, packet, &backend->address, service->mode);
}

/* What a packet is; 0 when it is not for us to judge. */
static __always_inline int parse(struct xdp_md *ctx, struct packet *packet)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct ipv4 *ip = (void *)(eth + 1);
	struct ipv6 *ip6 = (void *)(eth + 1);
	struct ports *ports;
	if ((void *)(ip + 1) + 8 > end || (eth->target[0] & 1))
		return 0;
	/* Options, further headers and fragments are left to the network stack. */
	if (eth->protocol == bpf_htons(0x0800)) {
		packet->v6 = 0;
		packet->length = bpf_ntohs(ip->length);
		if (ip->version_ihl != 0x45 || (ip->fragment & ~bpf_htons(0x4000)) ||
		    packet->length < sizeof(*ip) + 8)
			return 0;
		packet->protocol = ip->protocol;
		packet->ends.source = mapped(ip->source);
		packet->ends.target = mapped(ip->target);
		ports = (void *)(ip + 1);
	} else if (eth->protocol == bpf_htons(0x86DD)) {
		if ((void *)(ip6 + 1) + 8 > end || (ip6->flow & bpf_htonl(0xf0000000)) !=
						       bpf_htonl(0x60000000))
			return 0;
		packet->v6 = 1;
		packet->length = bpf_ntohs(ip6->length) + sizeof(*ip6);
		if (packet->length < sizeof(*ip6) + 8)
			return 0;
		packet->protocol = ip6->protocol;
		packet->ends.source = ip6->source;
		packet->ends.target = ip6->target;
		ports = (void *)(ip6 + 1);
	} else {
		return 0;
	}
	if ((void *)(eth + 1) + packet->length > end)
		return 0;
	if (packet->protocol == (packet->v6 ? ICMP6 : ICMP))
		return 1;
	if (packet->protocol != TCP && packet->protocol != UDP)
		return 0;
	packet->ends.source_port = ports->source;
	packet->ends.target_port = ports->target;
	packet->flags = 0;
	if (packet->protocol == TCP) {
		__u8 *flags = (void *)ports + 13;
		if ((void *)(flags + 1) > end)
			return 0;
		packet->flags = *flags;
	}
	return 1;
}

SEC("xdp")
int front(struct xdp_md *ctx)
{
	struct packet packet = {};
	if (!parse(ctx, &packet))
		return XDP_PASS;
	if (packet.protocol == (packet.v6 ? ICMP6 : ICMP))
		return error(ctx, &packet);
	struct service_key to = { .address = packet.ends.target,
				  .port = packet.ends.target_port,
				  .protocol = packet.protocol };
	struct service *service = bpf_map_lookup_elem(&services, &to);
	if (!service)
		return inward(ctx, &packet);
	if (!packet.v6) {
		void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
		struct ipv4 *ip = data + sizeof(struct eth);
		if ((void *)(ip + 1) > end || fold(sum_of(ip)))
			return XDP_DROP;
	}

	int opening = (packet.flags & (SYN | ACK)) == SYN;
	struct flow_key key = { .client = packet.ends.source,
				.address = packet.ends.target,
				.client_port = packet.ends.source_port,
				.port = packet.ends.target_port,
				.protocol = packet.protocol };
	struct flow *flow = bpf_map_lookup_elem(&flows, &key);
	struct backend *backend = 0;
	__u32 number = 0;
	__be16 port = 0, known_port = 0;
	int known = 0;
	if (flow) {
		number = flow->backend;
		known_port = flow->port;
		if (!opening) {
			backend = bpf_map_lookup_elem(&backends, &number);
			if (backend && backend->there && backend->generation == flow->generation)
				known = 1;
		}
	}
	if (!known) {
		__u32 chosen = 0;
		backend = of_table(service, &key, packet.v6, &chosen);
		struct counts *counts = counts_of();
		if (!backend) {
			if (counts)
				counts->no_backend++;
			return XDP_DROP;
		}
		if (flow && !opening && counts)
			counts->moved++;
		known = flow && number == chosen && flow->generation == backend->generation;
		number = chosen;
	}
	if (!backend)
		return XDP_DROP;
	if (known)
		port = known_port;
	known_port = port;
	if (service->mode == TRANSLATED && !outward(ctx, &packet, &key, backend, &port)) {
		struct counts *counts = counts_of();
		if (counts)
			counts->no_port++;
		return XDP_DROP;
	}
	if (!known || port != known_port) {
		struct flow new = { .backend = number,
				    .generation = backend->generation,
				    .port = port };
		bpf_map_update_elem(&flows, &key, &new, BPF_ANY);
	}
	int sent = send(ctx, &packet, &backend->address, service->mode);
	if (sent == XDP_DROP)
		return sent;
	struct load *load = bpf_map_lookup_elem(&loads, &number);
	if (load) {
		load->packets++;
		load->bytes += packet.length;
		load->connections += !known;
	}
	return sent;
}

char _license[] SEC("license") = "GPL and additional rights";
