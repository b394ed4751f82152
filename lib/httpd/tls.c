/*
 * TLS of inbound connections. libmicrohttpd speaks it, with GnuTLS; here is what it
 * is given to show, and what watching and refusing need to do on such a connection.
 *
 * Invariants
 *  1. A connection keeps what it was shown until it closes: a handshake of TLS 1.2
 *     needs the key again after the client has spoken.
 *  2. Nobody reads from a session beside libmicrohttpd but while the connection is
 *     suspended, and what is read then is thrown away.
 */
#include <errno.h>
#include <gnutls/abstract.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <stdlib.h>
#include <string.h>

#include "httpd/httpd-i.h"

/* A client that cannot do 1.2 has had since 2008 to learn it. */
#define VERSIONS "NORMAL:-VERS-ALL:+VERS-TLS1.3:+VERS-TLS1.2"

enum { CHAIN_MAX = 16, KEY_ID_MAX = 64 };

struct httpd_tls {
	atomic_uint refs;
	gnutls_pcert_st chain[CHAIN_MAX];
	unsigned n;
	gnutls_privkey_t key;
};

static void tls_free(struct httpd_tls *t)
{
	for (unsigned i = 0; i < t->n; i++)
		gnutls_pcert_deinit(&t->chain[i]);
	if (t->key != NULL)
		gnutls_privkey_deinit(t->key);
	free(t);
}

struct httpd_tls *httpd_tls_ref(struct httpd_tls *t)
{
	atomic_fetch_add(&t->refs, 1);
	return t;
}

void httpd_tls_unref(struct httpd_tls *t)
{
	if (t != NULL && atomic_fetch_sub(&t->refs, 1) == 1)
		tls_free(t);
}

/* ---- the files ---- */

static bool load(const char *setting, const char *path, gnutls_datum_t *ret, struct buf *reterr)
{
	errno = 0;
	if (gnutls_load_file(path, ret) == GNUTLS_E_SUCCESS)
		return true;
	buf_printf(reterr, "%s: %s cannot be read: %s\n", setting, path, errno != 0 ? strerror(errno) : "no memory");
	return false;
}

static void wipe(gnutls_datum_t *d)
{
	if (d->data != NULL)
		gnutls_memset(d->data, 0, d->size);
	gnutls_free(d->data);
}

static bool read_chain(struct httpd_tls *t, const char *path, struct buf *reterr)
{
	gnutls_datum_t text = {0};
	unsigned n = CHAIN_MAX;
	int rc;

	if (!load("tls.cert_file", path, &text, reterr))
		return false;
	rc = gnutls_pcert_list_import_x509_raw(t->chain, &n, &text, GNUTLS_X509_FMT_PEM, 0);
	wipe(&text);
	if (rc == GNUTLS_E_SUCCESS && n > 0) {
		t->n = n;
		return true;
	}
	buf_printf(reterr, "tls.cert_file: %s holds no certificate that can be used (%s): give one in PEM, and behind it "
		   "those that lead to its root, %d at most\n", path, gnutls_strerror(rc), CHAIN_MAX);
	return false;
}

static bool read_key(struct httpd_tls *t, const char *path, struct buf *reterr)
{
	gnutls_datum_t text = {0};
	int rc;

	if (!load("tls.key_file", path, &text, reterr))
		return false;
	rc = gnutls_privkey_init(&t->key);
	if (rc == GNUTLS_E_SUCCESS)
		rc = gnutls_privkey_import_x509_raw(t->key, &text, GNUTLS_X509_FMT_PEM, NULL, 0);
	wipe(&text);
	if (rc == GNUTLS_E_SUCCESS)
		return true;
	buf_printf(reterr, "tls.key_file: %s holds no private key that can be used (%s): give one in PEM, without a "
		   "password\n", path, gnutls_strerror(rc));
	return false;
}

static size_t key_id(gnutls_pubkey_t key, unsigned char ret[KEY_ID_MAX])
{
	size_t n = KEY_ID_MAX;

	return gnutls_pubkey_get_key_id(key, GNUTLS_KEYID_USE_SHA256, ret, &n) == GNUTLS_E_SUCCESS ? n : 0;
}

static bool belong_together(const struct httpd_tls *t)
{
	unsigned char a[KEY_ID_MAX], b[KEY_ID_MAX];
	size_t n = key_id(t->chain[0].pubkey, a);
	gnutls_pubkey_t pub;
	bool same;

	if (gnutls_pubkey_init(&pub) != GNUTLS_E_SUCCESS)
		return false;
	same = gnutls_pubkey_import_privkey(pub, t->key, 0, 0) == GNUTLS_E_SUCCESS && n > 0 && key_id(pub, b) == n &&
	       memcmp(a, b, n) == 0;
	gnutls_pubkey_deinit(pub);
	return same;
}

struct httpd_tls *httpd_tls_new(const char *cert_file, const char *key_file, struct buf *reterr)
{
	struct httpd_tls *t = xcalloc(1, sizeof *t);

	atomic_init(&t->refs, 1);
	if (!read_chain(t, cert_file, reterr) || !read_key(t, key_file, reterr)) {
		tls_free(t);
		return NULL;
	}
	if (belong_together(t))
		return t;
	buf_printf(reterr, "tls.key_file: %s is not the key of the certificate in %s: give the one that this was made "
		   "for; the server's own comes first in its file\n", key_file, cert_file);
	tls_free(t);
	return NULL;
}

bool httpd_tls_same(const struct httpd_tls *a, const struct httpd_tls *b)
{
	if (a->n != b->n)
		return false;
	for (unsigned i = 0; i < a->n; i++) {
		const gnutls_datum_t *x = &a->chain[i].cert, *y = &b->chain[i].cert;

		if (x->size != y->size || memcmp(x->data, y->data, x->size) != 0)
			return false;
	}
	return true;
}

/* ---- a listener, and its connections ---- */

/* In the handshake: what this connection is shown from here on. libmicrohttpd has
 * left its connection in the session. */
static int on_handshake(gnutls_session_t session, const gnutls_datum_t *ca_names, int n_ca_names,
			const gnutls_pk_algorithm_t *algorithms, int n_algorithms, gnutls_pcert_st **ret_chain,
			unsigned *ret_n, gnutls_privkey_t *ret_key)
{
	struct conn *c = conn_of(gnutls_session_get_ptr(session));

	(void)ca_names;
	(void)n_ca_names;
	(void)algorithms;
	(void)n_algorithms;
	if (c->tls == NULL)
		c->tls = httpd_tls_ref(c->h->cfg.tls);
	*ret_chain = c->tls->chain;
	*ret_n = c->tls->n;
	*ret_key = c->tls->key;
	return 0;
}

void tls_options(struct MHD_OptionItem ret[4])
{
	ret[0] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_PRIORITIES, 0, VERSIONS};
	ret[1] = (struct MHD_OptionItem){MHD_OPTION_HTTPS_CERT_CALLBACK, 0, (void *)on_handshake};
	ret[2] = (struct MHD_OptionItem){MHD_OPTION_END, 0, NULL};
}

static gnutls_session_t session_of(const struct conn *c)
{
	return MHD_get_connection_info(c->mc, MHD_CONNECTION_INFO_GNUTLS_SESSION)->tls_session;
}

/* A record that says that nothing follows is an end as much as a FIN is. */
ssize_t tls_receive(struct conn *c, char *out, size_t max)
{
	ssize_t n = gnutls_record_recv(session_of(c), out, max);

	if (n >= 0)
		return n;
	if (n == GNUTLS_E_INTERRUPTED)
		errno = EINTR;
	else
		errno = gnutls_error_is_fatal((int)n) ? ECONNRESET : EAGAIN;
	return -1;
}

/* It fits into one record. */
bool tls_send_last(struct conn *c, struct slice s)
{
	gnutls_session_t session = session_of(c);

	return gnutls_record_send(session, s.p, s.n) == (ssize_t)s.n && gnutls_bye(session, GNUTLS_SHUT_WR) == GNUTLS_E_SUCCESS;
}

/* ---- the other side ---- */

/* The process was stopped for a moment, or what came was a session ticket; the socket's own EAGAIN is its time limit. */
static bool is_no_end(ssize_t rc)
{
	return rc == GNUTLS_E_INTERRUPTED || (rc == GNUTLS_E_AGAIN && errno != EAGAIN);
}

static ssize_t ask(gnutls_session_t session, struct slice request, char *ret, size_t n)
{
	size_t got = 0;
	ssize_t more;
	int rc;

	do
		rc = gnutls_handshake(session);
	while (rc < 0 && !gnutls_error_is_fatal(rc) && rc != GNUTLS_E_AGAIN);
	if (rc < 0 || gnutls_record_send(session, request.p, request.n) != (ssize_t)request.n)
		return -1;
	do {
		errno = 0;
		more = gnutls_record_recv(session, ret + got, n - got);
		got += more > 0 ? (size_t)more : 0;
	} while ((more > 0 && got < n) || is_no_end(more));
	return (ssize_t)got;
}

ssize_t httpd_ask_tls(int fd, struct slice request, char *ret, size_t n)
{
	gnutls_certificate_credentials_t nobody = NULL;
	gnutls_session_t session = NULL;
	ssize_t got = -1;

	errno = 0;
	if (gnutls_certificate_allocate_credentials(&nobody) == GNUTLS_E_SUCCESS &&
	    gnutls_init(&session, GNUTLS_CLIENT | GNUTLS_NO_SIGNAL) == GNUTLS_E_SUCCESS &&
	    gnutls_priority_set_direct(session, VERSIONS, NULL) == GNUTLS_E_SUCCESS &&
	    gnutls_credentials_set(session, GNUTLS_CRD_CERTIFICATE, nobody) == GNUTLS_E_SUCCESS) {
		gnutls_transport_set_int(session, fd);
		got = ask(session, request, ret, n);
	}
	if (session != NULL)
		gnutls_deinit(session);
	if (nobody != NULL)
		gnutls_certificate_free_credentials(nobody);
	return got;
}
