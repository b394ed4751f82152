/* Whom an https request trusts, and what is said of it when it does not. */
#include "xfer-rig.h"

#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdlib.h>

static char folder[] = "/tmp/xfer-trust-XXXXXX";

static const char *path_of(const char *name)
{
	static char paths[32][64];
	static unsigned turn;
	char *path = paths[turn++ % ARRAY_LEN(paths)];

	snprintf(path, sizeof paths[0], "%s/%s", folder, name);
	return path;
}

static FILE *create(const char *name)
{
	FILE *f = fopen(path_of(name), "w");

	assert_non_null(f);
	return f;
}

static void write_cert(const char *name, X509 *cert)
{
	FILE *f = create(name);

	PEM_write_X509(f, cert);
	fclose(f);
}

/* A certificate that vouches for itself, and the server that shows it. Its key
 * goes into a file of this name, if it has one. */
static SSL_CTX *new_identity(const char *alt_name, const char *key_name, X509 **ret_cert)
{
	EVP_PKEY *key = EVP_EC_gen("P-256");
	X509 *cert = X509_new();
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	X509_EXTENSION *ext = X509V3_EXT_conf_nid(NULL, NULL, NID_subject_alt_name, alt_name);

	assert_non_null(key);
	assert_non_null(ext);
	X509_set_version(cert, 2);
	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), -3600);
	X509_gmtime_adj(X509_getm_notAfter(cert), 24 * 3600);
	X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
				   (const unsigned char *)alt_name, -1, -1, 0);
	X509_set_issuer_name(cert, X509_get_subject_name(cert));
	X509_add_ext(cert, ext, -1);
	X509_set_pubkey(cert, key);
	assert_true(X509_sign(cert, key, EVP_sha256()) > 0);
	assert_int_equal(SSL_CTX_use_certificate(ctx, cert), 1);
	assert_int_equal(SSL_CTX_use_PrivateKey(ctx, key), 1);
	if (key_name != NULL) {
		FILE *f = create(key_name);

		PEM_write_PrivateKey(f, key, NULL, NULL, 0, NULL, NULL);
		fclose(f);
	}
	X509_EXTENSION_free(ext);
	EVP_PKEY_free(key);
	*ret_cert = cert;
	return ctx;
}

static SSL_CTX *trusted, *untrusted, *elsewhere, *serving;

static int make_identities(void **state)
{
	X509 *cert, *other;
	FILE *f;

	assert_non_null(mkdtemp(folder));
	trusted = new_identity("IP:127.0.0.1", "key.pem", &cert);
	elsewhere = new_identity("DNS:elsewhere.example", "elsewhere.key", &other);
	f = create("system.pem");
	PEM_write_X509(f, cert);
	PEM_write_X509(f, other);
	fclose(f);
	write_cert("cert.pem", cert);
	X509_free(cert);
	X509_free(other);
	untrusted = new_identity("IP:127.0.0.1", NULL, &cert);
	write_cert("own.pem", cert);
	X509_free(cert);
	fclose(create("empty.pem"));
	setenv("SSL_CERT_FILE", path_of("system.pem"), 1);
	return rig_global_setup(state);
}

static int free_identities(void **state)
{
	static const char *const names[] = {"key.pem", "elsewhere.key", "system.pem", "cert.pem", "own.pem", "empty.pem"};

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		unlink(path_of(names[i]));
	rmdir(folder);
	SSL_CTX_free(trusted);
	SSL_CTX_free(untrusted);
	SSL_CTX_free(elsewhere);
	return rig_global_teardown(state);
}

static bool read_tls_request(SSL *ssl)
{
	char text[REQUEST_MAX];
	size_t n = 0;
	int r;

	do {
		r = SSL_read(ssl, text + n, (int)(sizeof text - 1 - n));
		if (r <= 0)
			return false;
		n += (size_t)r;
		text[n] = '\0';
	} while (strstr(text, "\r\n\r\n{\"n\":1}") == NULL);
	return true;
}

/* Answer the first request of a connection; d->text is for the second. */
static void serve_tls(struct peer *p)
{
	SSL *ssl = SSL_new(serving);

	SSL_set_fd(ssl, p->fd);
	if (SSL_accept(ssl) == 1) {
		while (read_tls_request(ssl)) {
			const char *text = p->requests++ == 0 ? OK : p->of->text;

			CHANGE(p->of->requests++);
			if (text == NULL)
				break;
			SSL_write(ssl, text, (int)strlen(text));
		}
	}
	SSL_free(ssl);
}

static void job_https(struct job *j, int port)
{
	char url[64];

	snprintf(url, sizeof url, "https://127.0.0.1:%d/in", port);
	job_init(j, "POST", url, SLICE("{\"n\":1}"));
}

static void a_trusted_host_gets_the_request(void **state)
{
	struct downstream *d = downstream_new(serve_tls, OK);
	struct job j;

	(void)state;
	serving = trusted;
	for (int i = 0; i < 2; i++) {
		job_https(&j, d->port);
		job_run(&j);
		assert_int_equal(j.a.end, ANSWER_COMPLETE);
		assert_int_equal(j.a.status, 200);
		assert_true(j.a.wrote);
		ASSERT_BODY(j.a, "hello");
	}
	assert_int_equal(d->n_peers, 1);
	finish_with(d);
}

static void expect_no_connection(void (*serve)(struct peer *p), SSL_CTX *identity, const char *detail)
{
	struct downstream *d = downstream_new(serve, "220 not TLS\r\n");
	struct job j;

	serving = identity;
	job_https(&j, d->port);
	job_run(&j);
	assert_int_equal(j.a.end, ANSWER_NO_CONNECTION);
	assert_false(j.a.wrote);
	assert_int_equal(j.a.phase, PHASE_TLS);
	assert_string_equal(j.a.detail, detail);
	assert_int_equal(d->requests, 0);
	finish_with(d);
}

static void speak_first(struct peer *p)
{
	say(p, p->of->text);
	wait_for_end(p);
}

static void end_at_once(struct peer *p)
{
	char c[512];

	recv(p->fd, c, sizeof c, 0);
	shutdown(p->fd, SHUT_WR);
	wait_for_end(p);
}

static void an_untrusted_host_gets_no_byte_of_it(void **state)
{
	(void)state;
	expect_no_connection(serve_tls, untrusted, "the certificate is not trusted");
	expect_no_connection(serve_tls, elsewhere, "the certificate is for another host");
	expect_no_connection(speak_first, NULL, "the TLS handshake failed");
	expect_no_connection(end_at_once, NULL, "the TLS handshake failed");
}

static void a_request_over_tls_is_not_sent_again_either(void **state)
{
	struct downstream *d = downstream_new(serve_tls, NULL);
	struct job j;

	(void)state;
	serving = trusted;
	for (int i = 0; i < 2; i++) {
		job_https(&j, d->port);
		job_run(&j);
	}
	assert_int_equal(j.a.end, ANSWER_LOST);
	assert_true(j.a.wrote);
	rig_restart();
	WAIT_FOR(d->gone == d->n_peers);
	assert_int_equal(d->n_peers, 1);
	assert_int_equal(d->requests, 2);
	downstream_free(d);
}

static void read_hello(struct peer *p)
{
	char c;

	recv(p->fd, &c, 1, 0);
	CHANGE(p->of->requests++);
	wait_for_end(p);
}

static void a_cancel_in_the_handshake_wrote_nothing(void **state)
{
	struct downstream *d = downstream_new(read_hello, NULL);
	struct job j;

	(void)state;
	job_https(&j, d->port);
	on_loop(start_job, &j);
	WAIT_FOR(d->requests == 1);
	on_loop(cancel_job, &j);
	job_wait(&j);
	assert_int_equal(j.a.end, ANSWER_CANCELLED);
	assert_int_equal(j.a.phase, PHASE_TLS);
	assert_false(j.a.wrote);
	WAIT_FOR(d->gone == 1);
	downstream_free(d);
}

/* Services 0 and up, each with its own ca_file or NULL. */
static void use_authorities(const char *first, const char *second)
{
	const struct xfer_tls services[] = {{.ca_file = first}, {.ca_file = second}};
	struct buf err = {0};
	struct xfer_tls_set *set = xfer_tls_load(services, ARRAY_LEN(services), &err);

	assert_non_null(set);
	xfer_tls_use(set);
}

static enum answer_end ask_as(unsigned service, int port)
{
	static struct job j;

	job_https(&j, port);
	j.e.service = service;
	job_run(&j);
	return j.a.end;
}

static void a_service_trusts_its_own_authorities_alone(void **state)
{
	struct downstream *d = downstream_new(serve_tls, OK);

	(void)state;
	serving = untrusted;
	use_authorities(NULL, path_of("own.pem"));
	assert_int_equal(ask_as(1, d->port), ANSWER_COMPLETE);
	/* Neither who has no file nor who is not in the list gets its connection. */
	assert_int_equal(ask_as(0, d->port), ANSWER_NO_CONNECTION);
	assert_int_equal(ask_as(7, d->port), ANSWER_NO_CONNECTION);
	assert_int_equal(ask_as(1, d->port), ANSWER_COMPLETE);
	assert_int_equal(d->requests, 2);
	xfer_tls_use(NULL);
	assert_int_equal(ask_as(1, d->port), ANSWER_NO_CONNECTION);
	finish_with(d);
}

/* As a reload does it. */
static void connections_outlive_their_files_only_while_these_say_the_same(void **state)
{
	struct downstream *d = downstream_new(serve_tls, OK);

	(void)state;
	serving = untrusted;
	use_authorities(path_of("own.pem"), path_of("own.pem"));
	assert_int_equal(ask_as(0, d->port), ANSWER_COMPLETE);
	assert_int_equal(ask_as(1, d->port), ANSWER_COMPLETE);
	use_authorities(path_of("own.pem"), path_of("cert.pem"));
	assert_int_equal(ask_as(0, d->port), ANSWER_COMPLETE);
	assert_int_equal(d->n_peers, 1);
	assert_int_equal(ask_as(1, d->port), ANSWER_NO_CONNECTION);
	assert_int_equal(d->n_peers, 2);
	assert_int_equal(d->requests, 3);
	xfer_tls_use(NULL);
	finish_with(d);
}

static void the_systems_authorities_are_read_anew(void **state)
{
	struct downstream *d = downstream_new(serve_tls, OK);

	(void)state;
	serving = trusted;
	assert_int_equal(ask_as(0, d->port), ANSWER_COMPLETE);
	rig_restart();
	setenv("SSL_CERT_FILE", path_of("own.pem"), 1);
	assert_int_equal(ask_as(0, d->port), ANSWER_COMPLETE);
	rig_restart();
	xfer_tls_use(NULL);
	assert_int_equal(ask_as(0, d->port), ANSWER_NO_CONNECTION);
	setenv("SSL_CERT_FILE", path_of("system.pem"), 1);
	xfer_tls_use(NULL);
	finish_with(d);
}

static void refused(struct xfer_tls second, const char *path, const char *problem)
{
	const struct xfer_tls services[] = {{.ca_file = path_of("own.pem")}, second};
	struct buf err = {0};
	char want[256];

	snprintf(want, sizeof want, "%s %s\n", path, problem);
	assert_null(xfer_tls_load(services, ARRAY_LEN(services), &err));
	buf_add_char(&err, '\0');
	assert_string_equal(err.p, want);
	buf_free(&err);
}

/* The configuration was checked before, but files change. */
static void files_that_do_not_fit_are_refused_as_a_whole(void **state)
{
	const char *cert = path_of("cert.pem"), *key = path_of("key.pem"), *other = path_of("elsewhere.key");
	const char *empty = path_of("empty.pem"), *none = path_of("none.pem");

	(void)state;
	refused((struct xfer_tls){.ca_file = none}, none, "does not exist");
	refused((struct xfer_tls){.ca_file = empty}, empty, "holds no certificate in PEM form");
	refused((struct xfer_tls){.cert_file = none, .key_file = key}, none, "does not exist");
	refused((struct xfer_tls){.cert_file = key, .key_file = key}, key, "holds no certificate in PEM form");
	refused((struct xfer_tls){.cert_file = cert, .key_file = none}, none, "does not exist");
	refused((struct xfer_tls){.cert_file = cert, .key_file = cert}, cert, "holds no private key in PEM form");
	refused((struct xfer_tls){.cert_file = cert, .key_file = other}, other, "is not the key of the certificate");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		XFER_TEST(a_trusted_host_gets_the_request),
		XFER_TEST(an_untrusted_host_gets_no_byte_of_it),
		XFER_TEST(a_request_over_tls_is_not_sent_again_either),
		XFER_TEST(a_cancel_in_the_handshake_wrote_nothing),
		XFER_TEST(a_service_trusts_its_own_authorities_alone),
		XFER_TEST(connections_outlive_their_files_only_while_these_say_the_same),
		XFER_TEST(the_systems_authorities_are_read_anew),
		cmocka_unit_test(files_that_do_not_fit_are_refused_as_a_whole),
	};

	return cmocka_run_group_tests_name("xfer_tls", tests, make_identities, free_identities);
}
