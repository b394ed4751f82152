/* The address guard: which addresses it means, and that nothing gets around it. */
#include "xfer-rig.h"

static bool special(const char *text)
{
	struct cidr c;

	assert_true(cidr_parse(text, &c));
	return xfer_addr_special(c.addr);
}

static void special_ranges_are_known_by_their_first_and_last(void **state)
{
	static const char *const yes[] = {
		"0.0.0.0", "0.255.255.255", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.127.255.255",
		"100.100.100.200", "127.0.0.0", "127.255.255.255", "168.63.129.16", "169.254.0.0",
		"169.254.169.254", "169.254.255.255", "172.16.0.0", "172.31.255.255", "192.0.0.0",
		"192.0.0.255", "192.0.2.0", "192.0.2.255", "192.88.99.0", "192.88.99.255", "192.168.0.0",
		"192.168.255.255", "198.18.0.0", "198.19.255.255", "198.51.100.0", "198.51.100.255",
		"203.0.113.0", "203.0.113.255", "224.0.0.0", "239.255.255.255", "240.0.0.0", "255.255.255.255",
		"::", "::1", "::127.0.0.1", "::10.1.2.3", "::ffff:127.0.0.1", "::ffff:169.254.169.254",
		"::ffff:0:127.0.0.1", "64:ff9b::127.0.0.1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::8.8.8.8", "100::1",
		"2001::1", "2001:0:4136:e378:8000:63bf:3fff:fdd2", "2001:10::1", "2001:20::1", "2001:1ff::1",
		"2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2002::", "2002:7f00:1::",
		"2002:ffff:ffff::", "3fff::1", "3fff:fff::1", "4000::1", "5f00::1", "fc00::", "fd00:ec2::254",
		"fdff::1", "fe80::", "fe80::1", "febf::1", "fec0::1", "feff::1", "ff00::", "ff02::1",
		"2600::5efe:10.0.0.1", "2600:1:2:3:200:5efe:169.254.169.254",
	};
	static const char *const no[] = {
		"1.0.0.0", "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0",
		"126.255.255.255", "128.0.0.0", "168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0",
		"172.15.255.255", "172.32.0.0", "192.0.1.0", "192.0.3.0", "192.88.98.255", "192.88.100.0",
		"192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "198.51.99.255", "198.51.101.0",
		"203.0.112.255", "203.0.114.0", "223.255.255.255", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8", "2000::1",
		"2001:200::1", "2001:db7:ffff::1", "2001:db9::", "2003::1", "2606:4700:4700::1111",
		"2a00:1450:4001::1", "3ffe:ffff::1", "3fff:1000::1", "2600::5efe:8.8.8.8",
		"2600::100:5efe:10.0.0.1", "2600::5eff:10.0.0.1",
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(yes); i++) {
		if (!special(yes[i]))
			fail_msg("%s passes", yes[i]);
	}
	for (size_t i = 0; i < ARRAY_LEN(no); i++) {
		if (special(no[i]))
			fail_msg("%s is refused", no[i]);
	}
}

static void job_guarded(struct job *j, const char *host, int port)
{
	char url[128];

	snprintf(url, sizeof url, "http://%s:%d/in", host, port);
	job_init(j, "POST", url, SLICE("x"));
	j->e.guarded = true;
}

static void loopback_is_refused_however_it_is_spelled(void **state)
{
	static const char *const hosts[] = {
		"127.0.0.1", "127.1", "127.0.1", "2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001",
		"0", "0.0.0.0", "127.255.255.254", "localhost", "LOCALHOST", "localhost.", "127.0.0.1.", "[::1]",
		"[::]", "[0:0:0:0:0:0:0:1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]",
		"[::1%25lo]", "[fe80::1%25lo]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "169.254.169.254",
		"10.0.0.1", "192.168.0.1", "user@127.0.0.1", "8.8.8.8@127.0.0.1",
		"%31%32%37.0.0.1", "\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1",
	};
	struct downstream *d = downstream_new(serve_text, OK);
	struct job j;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(hosts); i++) {
		job_guarded(&j, hosts[i], d->port);
		job_run(&j);
		/* Some spellings are no name and no address to begin with. */
		if (j.a.end != ANSWER_FORBIDDEN && j.a.end != ANSWER_NO_CONNECTION)
			fail_msg("%s: end %d", hosts[i], (int)j.a.end);
		assert_false(j.a.wrote);
		assert_int_equal(j.a.status, 0);
		if (i < 11)
			assert_int_equal(j.a.end, ANSWER_FORBIDDEN);
	}
	assert_int_equal(d->n_peers, 0);
	finish_with(d);
}

static void an_allowed_range_lets_through_and_no_more(void **state)
{
	static const char *const inside[] = {"127.0.0.1", "127.1", "[::ffff:127.0.0.1]"};
	struct downstream *d = downstream_new(serve_text, OK);
	struct cidr allow[2];
	struct job j;

	(void)state;
	assert_true(cidr_parse("10.0.0.0/8", &allow[0]));
	assert_true(cidr_parse("127.0.0.0/8", &allow[1]));
	for (size_t i = 0; i < ARRAY_LEN(inside); i++) {
		job_guarded(&j, inside[i], d->port);
		j.e.allow = allow;
		j.e.n_allow = 2;
		job_run(&j);
		assert_int_equal(j.a.status, 200);
	}
	job_guarded(&j, "127.0.0.1", d->port);
	j.e.allow = allow;
	j.e.n_allow = 1;
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_FORBIDDEN);
	job_guarded(&j, "[::1]", d->port);
	j.e.allow = allow;
	j.e.n_allow = 2;
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_FORBIDDEN);
	finish_with(d);
}

static void a_connection_of_one_who_may_is_not_used_by_one_who_may_not(void **state)
{
	struct downstream *d = downstream_new(serve_text, OK);
	struct cidr allow;
	struct job j;

	(void)state;
	assert_true(cidr_parse("127.0.0.0/8", &allow));
	for (int i = 0; i < 3; i++) {
		job_guarded(&j, "127.0.0.1", d->port);
		if (i == 0)
			j.e.guarded = false;
		if (i == 1) {
			j.e.allow = &allow;
			j.e.n_allow = 1;
		}
		job_run(&j);
		assert_int_equal(j.a.end, i < 2 ? ANSWER_COMPLETE : ANSWER_FORBIDDEN);
		assert_int_equal(j.a.wrote, i < 2);
	}
	/* Nor after it, when the refusal may have left its mark. */
	job_guarded(&j, "127.0.0.1", d->port);
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_FORBIDDEN);
	assert_int_equal(d->requests, 2);
	finish_with(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(special_ranges_are_known_by_their_first_and_last),
		XFER_TEST(loopback_is_refused_however_it_is_spelled),
		XFER_TEST(an_allowed_range_lets_through_and_no_more),
		XFER_TEST(a_connection_of_one_who_may_is_not_used_by_one_who_may_not),
	};

	return cmocka_run_group_tests_name("xfer_guard", tests, rig_global_setup, rig_global_teardown);
}
