// SPDX-License-Identifier: Apache-2.0
//
// Answers DNS questions before the kernel's network stack sees them.
//
//   eth / IPv4 | IPv6 / UDP to our port / one question [+ OPT without options]
//        │  name in lower case + type
//        ▼
//      slots ──found──▶ the answer is written behind the question, addresses are swapped, XDP_TX
//        │ └─ bodies, where the answer is a long one
//        └─ not found ─▶ XDP_PASS: the server's sockets answer
//
// Whatever is not understood whole is passed up; nothing is dropped but an answer that was
// exchanged while it was being copied. What an answer is, is said by src/xdp/prepare.rs; where and
// how it is written, by src/xdp/slots.rs and src/xdp/layout.rs.
//
// The kernel's own hash table would do, at three steps through memory for each question: bucket,
// key, value. Here it is one: which slot a name has follows from the name, and a slot is one line of
// cache with a short answer. What that step costs is how much memory all slots are spread over, in
// lines and in pages: so a slot holds 128 bits of a hash for the name, and "there is no such
// address" (most often: none of IPv6) stands in the slot of the address that there is.

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "keys are masked as little-endian words");

#define NAME 62 /* Longest name in the table; with the type a key is eight words. */
#define LABELS 31
#define TURNS 16
#define BODY 268
#define SHORT 32 /* Bytes of an answer that stands in its slot. */
#define ONE_V4 16 /* Bytes of one address, its name a pointer. */
#define STEPS 24 /* Slots from a name's own on that it may stand in. */
#define PAIRS 9 /* Of words that a name's hash is made of: the name itself, type and length. */
#define KIND_A 0x100 /* As a little-endian machine reads them. */
#define KIND_AAAA 0x1c00
#define HEADER 12
#define FIXED 4 /* Type and class. */
#define OPT 11
#define PORT_V4 34 /* Where UDP begins: Ethernet and IP without options before it. */
#define PORT_V6 54

enum order { AS_WRITTEN, BY_ID, BY_TURN };

struct key {
	__u64 words[8];
};

/* What a name and type are known by: two hashes with secret keys. IPv4 and IPv6 are one type. */
struct name {
	__u64 one, two;
};

/* Of a slot. */
enum mark {
	OWN = 1,    /* It has an answer of its own. */
	SIX = 2,    /* That is of IPv6, and what may say that there is nothing, of IPv4. */
	PAST = 128, /* Of those whose own slot is this or before, some stand further on. */
};

/* A line of cache. */
struct slot {
	struct name name;
	__u32 more;    /* 0: the body is here; else one more than its place in `bodies`. */
	__u32 none;    /* One more than the place of what says that there is no other address; or 0. */
	__u16 writing; /* Even: it is held. Changes before and after everything else does. */
	__u16 flags;   /* Of the own answer; host order, without what is taken from the question. */
	__u8 marks;
	/* Of a body that is here. */
	__u8 length;
	__u8 answers; /* Two that are all of the body turn by the query's id. */
	__u8 others;  /* Authorities, 4 bits; additionals, 3 bits; whether they turn. */
	__u8 body[SHORT];
};

/* A body that is long, or says the same for many names: that there is no such record. */
struct body {
	__u32 writing;
	__u32 turn;
	__u8 bytes[BODY];
	__u16 starts[TURNS + 1]; /* Where each that turns begins; the last says where they end. */
	__u16 length;
	__u8 answers, authorities, additionals;
	__u8 order, turns;
	__u8 unused;
	__u16 flags; /* Where it is no name's own. */
};

_Static_assert(sizeof(struct slot) == 64 && sizeof(struct body) == 320, "as layout.rs says");

struct counts {
	__u64 answered;
	__u64 unknown;     /* Names or types that are not in the table. */
	__u64 other;       /* Queries that only the server itself understands. */
	__u64 limited;     /* Over the rate; the server decides what they get. */
	__u64 exchanged;   /* Answers that changed under the copying, and were dropped. */
	__u64 failed;      /* No room behind the packet. */
};

/* Nobody maps them; but what could be mapped begins at a page, and so each slot at a line. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct body);
} bodies SEC(".maps");

/* Addresses that are ours, IPv4 as ::ffff:a.b.c.d. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u8[16]);
	__type(value, __u8);
} addresses SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct counts);
} counted SEC(".maps");

/* Room to work in; longer than is used, so that a start and a length may each be at their most. */
struct room {
	__u8 bytes[1024];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct room);
} rooms SEC(".maps");

/* Answers to a client network in a second. */
struct spent {
	__u64 second;
	__u64 answers;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_PERCPU_HASH);
	__uint(max_entries, 16384);
	__type(key, __u64);
	__type(value, struct spent);
} clients SEC(".maps");

/* Keys that were asked for and not found, and how often: the server learns from them. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, struct key);
	__type(value, __u64);
} missed SEC(".maps");

/* Set before the program is loaded. */
const volatile __u16 port = 53;
const volatile __u32 rate = 0;
const volatile __u32 places = 0; /* Slots that are a name's own; behind them are STEPS more. */
/* Secret: who chooses names chooses neither where they stand nor what they are taken for. */
const volatile __u32 keys[4 * PAIRS] = {};

struct header {
	__be16 id, flags, questions, answers, authorities, additionals;
} __attribute__((packed));

struct udp {
	__be16 source, target, length, check;
};

struct ipv4 {
	__u8 version_ihl, tos;
	__be16 length, id, fragment;
	__u8 ttl, protocol;
	__be16 check;
	__be32 source, target;
};

struct ipv6 {
	__be32 version;
	__be16 length;
	__u8 next, hops;
	__be32 source[4], target[4];
};

struct eth {
	__u8 target[6], source[6];
	__be16 protocol;
} __attribute__((packed));

/* Keeps the compiler from proving away a bound that the verifier wants to see. */
#define OPAQUE(x) asm volatile("" : "+r"(x))

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

/* Sum of an IPv4 header's words; folded it is 0 where the checksum is right. */
static __always_inline __u64 sum_of(const struct ipv4 *ip)
{
	const __u32 *words = (const __u32 *)ip;
	return (__u64)words[0] + words[1] + words[2] + words[3] + words[4];
}

/* Upper-case ASCII letters of eight bytes, as lower-case ones. */
static __always_inline __u64 lower(__u64 x)
{
	__u64 seven = x & 0x7f7f7f7f7f7f7f7fULL;
	__u64 after_z = seven + 0x2525252525252525ULL; /* 0x7f - 'Z' */
	__u64 from_a = seven + 0x3f3f3f3f3f3f3f3fULL;  /* 0x80 - 'A' */
	__u64 upper = ~x & (from_a ^ after_z) & 0x8080808080808080ULL;
	return x | upper >> 2;
}

/* Whether the client's network has had its answers for this second. */
static __always_inline int is_over(__u64 network)
{
	__u64 second = bpf_ktime_get_ns() / 1000000000;
	struct spent *spent = bpf_map_lookup_elem(&clients, &network);
	if (!spent) {
		struct spent first = { .second = second, .answers = 1 };
		bpf_map_update_elem(&clients, &network, &first, BPF_ANY);
		return 0;
	}
	if (spent->second != second) {
		spent->second = second;
		spent->answers = 0;
	}
	return ++spent->answers > rate;
}

static __always_inline void miss(const struct key *key)
{
	__u64 one = 1, *times = bpf_map_lookup_elem(&missed, key);
	if (times)
		*times += 1; /* As good as it need be. */
	else
		bpf_map_update_elem(&missed, key, &one, BPF_NOEXIST);
}

/* Takes the pair of words of that number into a name. Two names are taken for one by at most one in
 * 2^64 choices of the keys (NH: Black, Halevi, Krawczyk, Krovetz, Rogaway, UMAC, 1999). */
static __always_inline void take_in(struct name *name, int number, __u32 low, __u32 high)
{
	const volatile __u32 *one = keys + 2 * number, *two = one + 2 * PAIRS;
	name->one += (__u64)(low + one[0]) * (__u32)(high + one[1]);
	name->two += (__u64)(low + two[0]) * (__u32)(high + two[1]);
}

/* Where a name is held: one more than its slot, 32 bits; by which writing, 16; whether as what there
 * is no address of. 0: nowhere. A function of its own is verified once, not for each way there. */
__noinline __u64 find(__u64 one, __u64 two, __u32 six)
{
	__u64 mixed = (one ^ two >> 32) * 0x9e3779b97f4a7c15ULL;
	__u32 own = (mixed >> 32) * places >> 32;
	int i;
#pragma clang loop unroll(disable)
	for (i = 0; i < STEPS; i++) {
		__u32 at = own + i;
		struct slot *slot = bpf_map_lookup_elem(&slots, &at);
		if (!slot)
			return 0;
		__u32 writing = *(volatile __u16 *)&slot->writing;
		__u32 marks = *(volatile __u8 *)&slot->marks;
		/* Without branches, of which the verifier would go every way. */
		__u32 other = (marks >> 1 ^ six) & 1, own_part = OWN & ~other, none_part = -other;
		OPAQUE(own_part);
		OPAQUE(none_part);
		__u32 there = (marks & own_part) | (slot->none & none_part);
		__u64 differs = (slot->name.one ^ one) | (slot->name.two ^ two) | (writing & 1);
		if (!differs && there)
			return (__u64)other << 48 | (__u64)writing << 32 | (at + 1);
		if (!(marks & PAST))
			return 0;
	}
	return 0;
}

static __always_inline int is_ours(const __be32 address[4])
{
	return bpf_map_lookup_elem(&addresses, address) != 0;
}

/* Answers the message of `length` bytes behind the UDP header at `udp_at`. The packet is not
 * touched unless the whole answer is known. */
static __always_inline int answer(struct xdp_md *ctx, struct counts *counts, const __u32 udp_at,
				  __u32 length, const __be32 ours[4], __u64 network)
{
	const __u32 at = udp_at + sizeof(struct udp);
	__u64 text[10] = {};
	const __u8 *bytes = (const __u8 *)text;
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct header *header = data + at;
	if ((void *)(header + 1) > end)
		return XDP_PASS;

	/* Response, opcode: not for us. Other flags of a query say nothing (RFC 1035 §4.1.1). */
	__u16 asked = bpf_ntohs(header->flags);
	__u32 rest = length - HEADER;
	if (asked & 0xf800 || header->questions != bpf_htons(1) || header->answers ||
	    header->authorities || bpf_ntohs(header->additionals) > 1 || rest < 1 + FIXED ||
	    rest > NAME + FIXED + OPT)
		goto other;
	if (bpf_xdp_load_bytes(ctx, at + HEADER, text, rest))
		return XDP_PASS;

	__u32 name = 0;
	int i;
#pragma clang loop unroll(disable)
	for (i = 0; i <= LABELS; i++) {
		if (name > NAME - 1)
			goto other;
		__u32 label = bytes[name];
		name += label + 1;
		if (!label)
			break;
		if (label > 63)
			goto other;
	}
	if (name > NAME || i > LABELS)
		goto other;
	__u32 kind = bytes[name] | bytes[name + 1] << 8; /* As on the wire. */
	if (bytes[name + 2] || bytes[name + 3] != 1)     /* Class IN. */
		goto other;
	int edns = header->additionals != 0;
	if (rest != name + FIXED + (edns ? OPT : 0))
		goto other;
	if (edns) {
		/* Root, type 41; version 0; no options. The size does not matter: the longest
		 * answer here is shorter than the least that a client takes. */
		const __u8 *opt = bytes + name + FIXED;
		if (opt[0] || opt[1] || opt[2] != 41 || opt[6] || opt[9] || opt[10])
			goto other;
	}

	struct key key;
	struct name known = {};
	__u32 six = kind ^ KIND_AAAA;
	OPAQUE(six);
	six = (six - 1) >> 31; /* 1 for AAAA, without a branch. */
#pragma unroll
	for (i = 0; i < 8; i++) {
		__u32 before = i * 8;
		key.words[i] = 0;
		if (name <= before)
			continue;
		__u64 word = lower(text[i]);
		if (name < before + 8)
			word &= ((__u64)1 << (8 * (name - before))) - 1;
		key.words[i] = word;
		take_in(&known, i, word, word >> 32);
	}
	key.words[7] |= (__u64)kind << 48;
	take_in(&known, PAIRS - 1, kind - six * (KIND_AAAA - KIND_A), name);
	__u64 held = find(known.one, known.two, six);
	/* While the slot is on its way. */
	if (!is_ours(ours))
		return XDP_PASS;
	__u32 held_at = held - 1, writing = held >> 32 & 0xffff, none = held >> 48;
	if (!held) {
		counts->unknown++;
		miss(&key);
		return XDP_PASS;
	}
	struct slot *found = bpf_map_lookup_elem(&slots, &held_at);
	if (!found)
		return XDP_PASS;
	__u32 body = found->length, others = found->others, turns = (others & 1) * 2, turn = 0,
	      place = (found->none & -none) | (found->more & (none - 1));
	OPAQUE(place);
	__u16 answers = found->answers, authorities = others >> 4, additionals = others >> 1 & 7,
	      flags = found->flags;
	struct body *more = 0;
	__u32 more_writing = 0;
	__u8 order = BY_ID;
	if (place) {
		place--;
		more = bpf_map_lookup_elem(&bodies, &place);
		if (!more)
			return XDP_PASS;
		more_writing = *(volatile __u32 *)&more->writing;
		body = more->length;
		turns = more->turns;
		order = more->order;
		answers = more->answers;
		authorities = more->authorities;
		additionals = more->additionals;
		flags ^= (flags ^ more->flags) & -none;
	}
	if (more_writing & 1 || body > (more ? BODY : SHORT))
		return XDP_PASS;
	if (rate && is_over(network)) {
		counts->limited++;
		return XDP_PASS;
	}

	__u32 message = HEADER + name + FIXED + body + (edns ? OPT : 0);
	__u32 whole = at + message;
	if (bpf_xdp_adjust_tail(ctx, (int)whole - (int)(end - data))) {
		counts->failed++;
		return XDP_PASS;
	}

	/* From here on the packet is ours to send or to drop. */
	__u32 to = at + HEADER + name + FIXED;
	if (turns > 1 && turns <= TURNS) {
		if (order == BY_ID) {
			data = (void *)(long)ctx->data;
			end = (void *)(long)ctx->data_end;
			header = data + at;
			if ((void *)(header + 1) > end)
				return XDP_DROP;
			turn = (bpf_ntohs(header->id) * 0x9e3779b1u) % turns;
		} else if (order == BY_TURN && more) {
			turn = __sync_fetch_and_add(&more->turn, 1) % turns;
		}
	}
	if (turn == 0 && !more && body == ONE_V4) {
		/* What is asked for most, without a call. */
		OPAQUE(to);
		if (to > 255)
			return XDP_DROP;
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		if (data + to + ONE_V4 > end)
			return XDP_DROP;
		__builtin_memcpy(data + to, found->body, ONE_V4);
	} else if (turn == 0 && !more) {
		OPAQUE(body);
		if (body > SHORT)
			return XDP_DROP;
		if (body && bpf_xdp_store_bytes(ctx, to, found->body, body))
			return XDP_DROP;
	} else if (turn == 0) {
		OPAQUE(body);
		if (body > BODY)
			return XDP_DROP;
		if (body && bpf_xdp_store_bytes(ctx, to, more->bytes, body))
			return XDP_DROP;
	} else {
		__u32 zero = 0, first, from, last;
		struct room *room = bpf_map_lookup_elem(&rooms, &zero);
		OPAQUE(turn);
		OPAQUE(turns);
		if (!room || turn > TURNS || turns > TURNS)
			return XDP_DROP;
		if (more) {
			first = more->starts[0];
			from = more->starts[turn];
			last = more->starts[turns];
			__builtin_memcpy(room->bytes, more->bytes, BODY);
		} else {
			first = 0;
			from = body / 2;
			last = body;
			__builtin_memcpy(room->bytes, found->body, SHORT);
		}
		/* What stands before, the records from `from`, those before it, what follows. */
		__u32 head = first, upper = last - from, lowest = from - first, tail = body - last;
		OPAQUE(head);
		OPAQUE(upper);
		OPAQUE(lowest);
		OPAQUE(tail);
		OPAQUE(from);
		OPAQUE(first);
		OPAQUE(last);
		if (head > BODY || upper > BODY || lowest > BODY || tail > BODY || from > BODY ||
		    first > BODY || last > BODY)
			return XDP_DROP;
		if (head && bpf_xdp_store_bytes(ctx, to, room->bytes, head))
			return XDP_DROP;
		if (upper && bpf_xdp_store_bytes(ctx, to + head, room->bytes + from, upper))
			return XDP_DROP;
		if (lowest &&
		    bpf_xdp_store_bytes(ctx, to + head + upper, room->bytes + first, lowest))
			return XDP_DROP;
		if (tail && bpf_xdp_store_bytes(ctx, to + last, room->bytes + last, tail))
			return XDP_DROP;
	}
	/* The body last: what a place of it was given to meanwhile, its slot had lost before. */
	if ((more && *(volatile __u32 *)&more->writing != more_writing) ||
	    *(volatile __u16 *)&found->writing != writing) {
		counts->exchanged++;
		return XDP_DROP;
	}
	if (edns) {
		/* Size 1232, as the sockets say. */
		const __u8 opt[OPT] = { 0, 0, 41, 1232 >> 8, 1232 & 0xff, 0, 0, 0, 0, 0, 0 };
		if (bpf_xdp_store_bytes(ctx, to + body, (void *)opt, OPT))
			return XDP_DROP;
	}

	data = (void *)(long)ctx->data;
	end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	struct udp *udp = data + udp_at;
	header = data + at;
	if ((void *)(header + 1) > end)
		return XDP_DROP;
	/* Recursion desired and checking disabled are said back. */
	header->flags = bpf_htons(flags | (asked & 0x0110));
	header->answers = bpf_htons(answers);
	header->authorities = bpf_htons(authorities);
	header->additionals = bpf_htons(additionals + (edns ? 1 : 0));

	__u8 mac[6];
	__builtin_memcpy(mac, eth->target, 6);
	__builtin_memcpy(eth->target, eth->source, 6);
	__builtin_memcpy(eth->source, mac, 6);
	__be16 source = udp->source;
	__u32 udp_length = sizeof(*udp) + message;
	udp->source = udp->target;
	udp->target = source;
	udp->length = bpf_htons(udp_length);
	udp->check = 0; /* RFC 768: none. Over IPv6 there must be one. */

	if (udp_at == PORT_V4) {
		struct ipv4 *ip = data + sizeof(*eth);
		__be32 address = ip->source;
		ip->source = ip->target;
		ip->target = address;
		ip->tos = 0;
		ip->ttl = 64;
		ip->id = 0;
		ip->fragment = bpf_htons(0x4000);
		ip->length = bpf_htons(sizeof(*ip) + udp_length);
		ip->check = 0;
		ip->check = fold(sum_of(ip));
	} else {
		struct ipv6 *ip = data + sizeof(*eth);
		__be32 address[4];
		__builtin_memcpy(address, ip->source, 16);
		__builtin_memcpy(ip->source, ip->target, 16);
		__builtin_memcpy(ip->target, address, 16);
		ip->version = bpf_htonl(6u << 28);
		ip->hops = 64;
		ip->length = bpf_htons(udp_length);
		__s64 sum = bpf_csum_diff(0, 0, (__be32 *)ip->source, 32,
					  bpf_htonl(udp_length) + bpf_htonl(17));
		__u32 zero = 0;
		struct room *room = bpf_map_lookup_elem(&rooms, &zero);
		if (!room || udp_length > 508)
			return XDP_DROP;
		*(__u32 *)(room->bytes + (udp_length & 508)) = 0;
		if (bpf_xdp_load_bytes(ctx, udp_at, room->bytes, udp_length))
			return XDP_DROP;
		sum = bpf_csum_diff(0, 0, (__be32 *)room->bytes, (udp_length + 3) & 508, sum);
		__u16 check = fold(sum);
		data = (void *)(long)ctx->data;
		end = (void *)(long)ctx->data_end;
		udp = data + udp_at;
		if ((void *)(udp + 1) > end)
			return XDP_DROP;
		udp->check = check ? check : 0xffff;
	}
	counts->answered++;
	return XDP_TX;

other:
	if (is_ours(ours))
		counts->other++;
	return XDP_PASS;
}

static __always_inline int over_v4(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv4 *ip = data + sizeof(struct eth);
	struct udp *udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	if (ip->protocol != 17 || udp->target != bpf_htons(port))
		return XDP_PASS;
	/* No options, not a fragment, not longer than the frame, the checksum right. */
	__u32 length = bpf_ntohs(ip->length), udp_length = bpf_ntohs(udp->length);
	if (ip->version_ihl != 0x45 || (ip->fragment & ~bpf_htons(0x4000)) ||
	    (void *)ip + length > end || udp_length + sizeof(*ip) != length ||
	    udp_length < sizeof(*udp) + HEADER || fold(sum_of(ip)) || !udp->source)
		return XDP_PASS;
	/* What the kernel refuses as a source (0/8, 127/8, 224/3) is left to it. */
	__u32 source = bpf_ntohl(ip->source), network = source >> 24;
	if (network == 0 || network == 127 || network >= 224 || ip->source == ip->target)
		return XDP_PASS;
	__be32 ours[4] = { 0, 0, bpf_htonl(0xffff), ip->target };
	__u32 zero = 0;
	struct counts *counts = bpf_map_lookup_elem(&counted, &zero);
	if (!counts)
		return XDP_PASS;
	return answer(ctx, counts, PORT_V4, udp_length - sizeof(*udp), ours, source >> 8);
}

static __always_inline int over_v6(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ipv6 *ip = data + sizeof(struct eth);
	struct udp *udp = (void *)(ip + 1);
	if ((void *)(udp + 1) > end)
		return XDP_PASS;
	if (ip->next != 17 || udp->target != bpf_htons(port))
		return XDP_PASS;
	__u32 length = bpf_ntohs(ip->length);
	if (bpf_ntohl(ip->version) >> 28 != 6 || (void *)udp + length > end ||
	    bpf_ntohs(udp->length) != length || length < sizeof(*udp) + HEADER || !udp->source ||
	    !udp->check)
		return XDP_PASS;
	/* Multicast, unspecified, loopback and mapped sources are left to the kernel. */
	__be32 *source = ip->source;
	if ((bpf_ntohl(source[0]) >> 24) == 0xff || !(source[0] | source[1] | source[2]))
		return XDP_PASS;
	if (!((source[0] ^ ip->target[0]) | (source[1] ^ ip->target[1]) |
	      (source[2] ^ ip->target[2]) | (source[3] ^ ip->target[3])))
		return XDP_PASS;
	__be32 ours[4] = { ip->target[0], ip->target[1], ip->target[2], ip->target[3] };
	__u32 zero = 0;
	struct counts *counts = bpf_map_lookup_elem(&counted, &zero);
	if (!counts)
		return XDP_PASS;
	__u64 network = (__u64)bpf_ntohl(source[0]) << 32 | (bpf_ntohl(source[1]) & 0xffffff00);
	return answer(ctx, counts, PORT_V6, length - sizeof(*udp), ours, network);
}

SEC("xdp")
int dns(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct eth *eth = data;
	if ((void *)(eth + 1) > end)
		return XDP_PASS;
	/* To one host, from one host. */
	if ((eth->target[0] | eth->source[0]) & 1)
		return XDP_PASS;
	if (eth->protocol == bpf_htons(0x0800))
		return over_v4(ctx);
	if (eth->protocol == bpf_htons(0x86dd))
		return over_v6(ctx);
	return XDP_PASS;
}

char _license[] SEC("license") = "Apache-2.0";
