#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/buf.h"
#include "base/cidr.h"
#include "base/cores.h"
#include "base/digest.h"
#include "base/heap.h"
#include "base/list.h"
#include "base/rand.h"

static void heap_pops_in_order_after_any_change(void **state)
{
	struct heap h = {0};
	struct heap_node nodes[200] = {0};
	struct rng rng;
	int64_t last = INT64_MIN;
	struct heap_node *node;
	unsigned left = 0;

	(void)state;
	rng_seed(&rng, 1);
	for (int round = 0; round < 2000; round++) {
		struct heap_node *any = &nodes[rng_below(&rng, 200)];

		if (rng_below(&rng, 3) == 0)
			heap_remove(&h, any);
		else
			heap_set(&h, any, (int64_t)rng_below(&rng, 1000));
	}
	for (int i = 0; i < 200; i++)
		left += heap_has(&nodes[i]);
	assert_null(heap_pop(&h, -1));
	while ((node = heap_pop(&h, INT64_MAX)) != NULL) {
		assert_true(node->key >= last);
		assert_false(heap_has(node));
		last = node->key;
		left--;
	}
	assert_int_equal(left, 0);
	assert_int_equal(heap_min(&h), HEAP_NONE);
	heap_free(&h);
}

static void list_moves_nodes_between_heads(void **state)
{
	struct list a, b, nodes[4];

	(void)state;
	list_init(&a);
	list_init(&b);
	for (int i = 0; i < 4; i++)
		list_append(i < 2 ? &a : &b, &nodes[i]);
	list_splice(&a, &b);
	assert_true(list_empty(&b));
	list_remove(&nodes[1]);
	list_remove(&nodes[1]);
	assert_ptr_equal(list_pop(&a), &nodes[0]);
	assert_ptr_equal(list_pop(&a), &nodes[2]);
	assert_ptr_equal(list_pop(&a), &nodes[3]);
	assert_null(list_pop(&a));
}

static void batch_ids_round_trip_and_sort_by_time(void **state)
{
	struct rng rng;
	char text[BATCH_ID_LEN + 1], earlier[BATCH_ID_LEN + 1] = "";
	struct batch_id back;

	(void)state;
	rng_seed(&rng, 7);
	for (int i = 0; i < 1000; i++) {
		struct batch_id id = batch_id_new(&rng, 1700000000000 + i, (unsigned)i & 0xff);

		batch_id_format(id, text);
		assert_true(strcmp(earlier, text) < 0);
		memcpy(earlier, text, sizeof text);
		assert_true(batch_id_parse(slice_str(text), &back));
		assert_true(batch_id_eq(id, back));
		assert_int_equal(batch_id_shard(back), i & 0xff);
	}
	assert_false(batch_id_parse(SLICE("b_01"), &back));
	assert_false(batch_id_parse(SLICE("b_0123456789ABCDEFGHJKMNPQRU"), &back));
	assert_false(batch_id_parse(SLICE("b_8ZZZZZZZZZZZZZZZZZZZZZZZZZ"), &back));
}

static void buffers_grow_and_become_blobs(void **state)
{
	struct buf b = {0};
	struct blob *blob;

	(void)state;
	buf_add_i64(&b, INT64_MIN);
	buf_add_char(&b, ' ');
	buf_add_u64(&b, UINT64_MAX);
	buf_printf(&b, " %d%%", 5);
	for (int i = 0; i < 1000; i++)
		buf_add_str(&b, "x");
	blob = blob_from_buf(&b);
	assert_non_null(blob);
	assert_null(b.p);
	assert_memory_equal(blob->p, "-9223372036854775808 18446744073709551615 5%xxx", 46);
	blob_unref(blob_ref(blob));
	blob_unref(blob);
	assert_false(buf_reserve(&b, SIZE_MAX / 2));
	buf_add_str(&b, "lost");
	assert_null(blob_from_buf(&b));
}

static void arenas_give_aligned_memory(void **state)
{
	struct arena a = {0};

	(void)state;
	for (size_t n = 1; n < 10000; n = n * 3 + 1) {
		char *p = arena_alloc(&a, n);

		assert_non_null(p);
		assert_int_equal((uintptr_t)p % 16, 0);
		memset(p, 1, n);
	}
	assert_string_equal(arena_copy(&a, SLICE("abc")).p, "abc");
	assert_null(arena_alloc(&a, SIZE_MAX - 3));
	arena_free(&a);
}

static void address_ranges_match_by_prefix(void **state)
{
	struct cidr ten, one, bad, v6;
	struct cidr in;

	(void)state;
	assert_true(cidr_parse("10.0.0.0/8", &ten));
	assert_true(cidr_parse("192.0.2.7", &one));
	assert_true(cidr_parse("fd00::/7", &v6) == false);
	assert_true(cidr_parse("fc00::/7", &v6));
	assert_true(cidr_parse("10.255.0.1", &in));
	assert_true(cidr_has(&ten, in.addr));
	assert_false(cidr_has(&one, in.addr));
	assert_true(cidr_parse("fdff::1", &in));
	assert_true(cidr_has(&v6, in.addr));
	assert_false(cidr_has(&ten, in.addr));
	assert_false(cidr_parse("10.0.0.1/8", &bad));
	assert_false(cidr_parse("10.0.0.0/33", &bad));
	assert_false(cidr_parse("10.0.0.0/", &bad));
	assert_false(cidr_parse("10.0.0/8", &bad));
	assert_false(cidr_parse("example", &bad));
}

static void assert_digest(const unsigned char *digest, const char *hex)
{
	char text[2 * DIGEST_BYTES + 1];

	for (size_t i = 0; i < DIGEST_BYTES; i++)
		snprintf(text + 2 * i, 3, "%02x", digest[i]);
	assert_string_equal(text, hex);
}

/* FIPS 180-4's "abc"; RFC 4231, test case 2; the empty string's digest. */
static void digests_are_those_of_the_standards(void **state)
{
	const struct slice parts[] = {SLICE("what do ya want "), SLICE(""), SLICE("for nothing?")};
	unsigned char digest[DIGEST_BYTES];
	char text[DIGEST_BASE64 + 1];

	(void)state;
	assert_true(digest_sha256(SLICE("abc"), digest));
	assert_digest(digest, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	assert_true(digest_sha256((struct slice){0}, digest));
	assert_digest(digest, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
	digest_base64(digest, text);
	assert_string_equal(text, "47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=");
	assert_true(digest_hmac(SLICE("Jefe"), parts, ARRAY_LEN(parts), digest));
	assert_digest(digest, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
}

/* ---- cores ---- */

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	fclose(f);
}

static unsigned granted(const char *self, const char *of_all, const char *of_outer, const char *of_inner)
{
	put("self", self);
	put("cpu.max", of_all);
	put("outer/cpu.max", of_outer);
	put("outer/inner/cpu.max", of_inner);
	return cores_granted("self", ".");
}

static unsigned granted_by_first(const char *self, const char *quota_of_all, const char *quota, const char *period)
{
	put("self", self);
	put("cpu/cpu.cfs_quota_us", quota_of_all);
	put("cpu/cpu.cfs_period_us", "100000\n");
	put("cpu/outer/cpu.cfs_quota_us", quota);
	put("cpu/outer/cpu.cfs_period_us", period);
	return cores_granted("self", ".");
}

static void cores_of_version_1_are_granted_in_two_files(void **state)
{
	static const char *const files[] = {"self", "cpu.max", "cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us",
					    "cpu/outer/cpu.cfs_quota_us", "cpu/outer/cpu.cfs_period_us"};
	static const char lines[] = "12:pids:/x\n4:cpu,cpuacct:/outer\n1:name=systemd:/x\n";
	char dir[] = "/tmp/settled-cores-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_true(mkdir("cpu", 0700) == 0 && mkdir("cpu/outer", 0700) == 0);
	put("cpu.max", "300000 100000\n");
	assert_int_equal(granted_by_first(lines, "-1\n", "150000\n", "100000\n"), 2);
	assert_int_equal(granted_by_first("4:cpuacct,cpu:/outer\n", "-1\n", "50000\n", "50000\n"), 1);
	assert_int_equal(granted_by_first(lines, "-1\n", "-1\n", "100000\n"), 0);
	assert_int_equal(granted_by_first(lines, "400000\n", "-1\n", "100000\n"), 4);
	/* In a container: its own group is where that of all would be. */
	assert_int_equal(granted_by_first("4:cpu,cpuacct:/docker/abc\n", "200000\n", "-1\n", "100000\n"), 2);
	assert_int_equal(granted_by_first("4:cpuset,cpuacct:/outer\n", "200000\n", "100000\n", "100000\n"), 0);
	assert_int_equal(granted_by_first(lines, "-1\n", "what\n", "100000\n"), 0);
	assert_int_equal(granted_by_first(lines, "-1\n", "100000\n", "0\n"), 0);
	assert_int_equal(granted_by_first("cpu\n:cpu\n\n4:cpu:\n4:cpu:outer\n", "-1\n", "100000\n", "100000\n"), 0);
	/* With both the smaller one counts. */
	assert_int_equal(granted_by_first("4:cpu:/outer\n0::/\n", "-1\n", "900000\n", "100000\n"), 3);
	assert_int_equal(granted_by_first("0::/\n4:cpu:/outer\n", "-1\n", "200000\n", "100000\n"), 2);
	for (size_t i = 0; i < ARRAY_LEN(files); i++)
		assert_int_equal(unlink(files[i]), 0);
	assert_true(rmdir("cpu/outer") == 0 && rmdir("cpu") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
}

static void cores_are_those_that_all_its_groups_grant(void **state)
{
	char dir[] = "/tmp/settled-cores-XXXXXX";

	(void)state;
	assert_non_null(mkdtemp(dir));
	assert_int_equal(chdir(dir), 0);
	assert_true(mkdir("outer", 0700) == 0 && mkdir("outer/inner", 0700) == 0);
	assert_int_equal(granted("1:cpu:/x\n0::/outer/inner\n", "max 100000\n", "max 100000\n", "200000 100000\n"), 2);
	assert_int_equal(granted("0::/outer/inner\n", "max 100000\n", "150000 100000\n", "400000 100000\n"), 2);
	assert_int_equal(granted("0::/outer\n", "500000 100000\n", "max 100000\n", "1000 100000\n"), 5);
	assert_int_equal(granted("0::/\n", "1000 100000\n", "max 100000\n", "max 100000\n"), 1);
	assert_int_equal(granted("0::/outer/inner\n", "max 100000\n", "max 100000\n", "max 100000\n"), 0);
	assert_int_equal(granted("0::/gone\n", "what is this\n", "1 0\n", "1 0\n"), 0);
	assert_int_equal(granted("0::/outer\n", "max 100000\n", "1 0\n", ""), 0);
	assert_int_equal(granted("1:cpu:/outer\n", "1000 100000\n", "1000 100000\n", ""), 0);
	assert_int_equal(cores_granted("no-such-file", "."), 0);
	assert_true(cores_usable() >= 1);
	assert_true(unlink("self") == 0 && unlink("cpu.max") == 0 && unlink("outer/cpu.max") == 0 && unlink("outer/inner/cpu.max") == 0);
	assert_true(rmdir("outer/inner") == 0 && rmdir("outer") == 0 && chdir("/") == 0 && rmdir(dir) == 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(heap_pops_in_order_after_any_change),
		cmocka_unit_test(list_moves_nodes_between_heads),
		cmocka_unit_test(batch_ids_round_trip_and_sort_by_time),
		cmocka_unit_test(buffers_grow_and_become_blobs),
		cmocka_unit_test(arenas_give_aligned_memory),
		cmocka_unit_test(address_ranges_match_by_prefix),
		cmocka_unit_test(digests_are_those_of_the_standards),
		cmocka_unit_test(cores_are_those_that_all_its_groups_grant),
		cmocka_unit_test(cores_of_version_1_are_granted_in_two_files),
	};

	return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
