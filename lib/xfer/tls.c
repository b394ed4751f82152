/*
 * Whom services trust and how they show themselves. Files are parsed once, off
 * the loop: libcurl's own way would read the whole bundle of authorities for each
 * new connection, 29 ms on the loop.
 *
 * Invariants
 *  1. `store` and `current` are read and written under `lock`. What they point at
 *     does not change; who uses it has a reference.
 *  2. The system's authorities are in `store`, made when the first https connection
 *     needs it. Sources are OpenSSL's: SSL_CERT_FILE and SSL_CERT_DIR, or the
 *     defaults. A hashed directory is read one certificate at a time as they are
 *     needed; a whole bundle is the second choice, as it costs 25 ms and megabytes.
 *  3. A transfer keeps the profile that it began with. libcurl knows nothing of
 *     profiles, but it never uses a connection or a TLS session for a transfer
 *     whose list of ciphers is spelled otherwise. So the list ends in the profile's
 *     tag, a digest of its files, which OpenSSL skips as a cipher that it does not
 *     have. Profiles of the same files share their connections.
 */
#include <dirent.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/digest.h"
#include "base/pem.h"
#include "xfer/xfer-i.h"

struct tls_profile {
	atomic_uint refs;
	X509_STORE *trust;               /* NULL: the system's */
	struct pem_chain chain;          /* cert NULL: none is shown */
	EVP_PKEY *key;
	char *ciphers;                   /* with the tag */
};

struct xfer_tls_set {
	struct tls_profile **profiles;   /* NULL: nothing of its own */
	size_t n;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static X509_STORE *store;
static struct xfer_tls_set *current;

/* At its first error, even one that is none, OpenSSL would load the texts of all,
 * which nobody reads here: half a megabyte. */
bool xfer_tls_init(void)
{
	return OPENSSL_init_crypto(OPENSSL_INIT_NO_LOAD_CRYPTO_STRINGS, NULL) == 1;
}

/* c_rehash names: eight hexadecimal digits, a dot, a number. */
static bool is_hashed(const char *name)
{
	return strspn(name, "0123456789abcdef") == 8 && name[8] == '.' && name[9] == '0';
}

static bool dir_is_hashed(const char *path)
{
	DIR *dir = opendir(path);
	struct dirent *entry;
	bool found = false;

	if (dir == NULL)
		return false;
	while (!found && (entry = readdir(dir)) != NULL)
		found = is_hashed(entry->d_name);
	closedir(dir);
	return found;
}

/* Has the administrator or the distribution put certificates where OpenSSL
 * looks by itself? */
static bool defaults_exist(void)
{
	return getenv(X509_get_default_cert_file_env()) != NULL ||
	       getenv(X509_get_default_cert_dir_env()) != NULL ||
	       access(X509_get_default_cert_file(), R_OK) == 0 ||
	       dir_is_hashed(X509_get_default_cert_dir());
}

static void load_bundle(X509_STORE *s)
{
	static const char *const bundles[] = {
		"/etc/ssl/certs/ca-certificates.crt",
		"/etc/pki/tls/certs/ca-bundle.crt",
		"/etc/ssl/cert.pem",
	};

	for (size_t i = 0; i < ARRAY_LEN(bundles); i++) {
		if (access(bundles[i], R_OK) == 0 && X509_STORE_load_file(s, bundles[i]) == 1)
			return;
	}
}

/* Without any certificate the store is still good: it trusts nobody. */
static X509_STORE *load(void)
{
	X509_STORE *s = X509_STORE_new();

	if (s == NULL)
		return NULL;
	/* As libcurl does: an intermediate that is trusted needs no root. */
	X509_STORE_set_flags(s, X509_V_FLAG_PARTIAL_CHAIN);
	X509_STORE_set_default_paths(s);
	if (!defaults_exist())
		load_bundle(s);
	return s;
}

static X509_STORE *system_trust(void)
{
	X509_STORE *s;

	pthread_mutex_lock(&lock);
	if (store == NULL)
		store = load();
	s = store;
	if (s != NULL)
		X509_STORE_up_ref(s);
	pthread_mutex_unlock(&lock);
	/* A missing file leaves an error that would be taken for the handshake's. */
	ERR_clear_error();
	return s;
}

static bool show(SSL_CTX *ctx, const struct tls_profile *p)
{
	return p->chain.cert == NULL ||
	       (SSL_CTX_use_certificate(ctx, p->chain.cert) == 1 && SSL_CTX_use_PrivateKey(ctx, p->key) == 1 &&
		SSL_CTX_set1_chain(ctx, p->chain.rest) == 1);
}

CURLcode xfer_tls_configure(const struct tls_profile *p, void *ssl_ctx)
{
	X509_STORE *s;

	if (p == NULL || p->trust == NULL) {
		s = system_trust();
		if (s == NULL)
			return CURLE_OUT_OF_MEMORY;
		SSL_CTX_set_cert_store(ssl_ctx, s);
	} else {
		SSL_CTX_set1_cert_store(ssl_ctx, p->trust);
	}
	return p == NULL || show(ssl_ctx, p) ? CURLE_OK : CURLE_OUT_OF_MEMORY;
}

struct tls_profile *xfer_tls_profile(unsigned service)
{
	struct tls_profile *p = NULL;

	pthread_mutex_lock(&lock);
	if (current != NULL && service < current->n)
		p = current->profiles[service];
	if (p != NULL)
		atomic_fetch_add(&p->refs, 1);
	pthread_mutex_unlock(&lock);
	return p;
}

const char *xfer_tls_ciphers(const struct tls_profile *p)
{
	return p == NULL ? NULL : p->ciphers;
}

void xfer_tls_unref(struct tls_profile *p)
{
	if (p == NULL || atomic_fetch_sub(&p->refs, 1) != 1)
		return;
	pem_trust_free(p->trust);
	pem_chain_free(&p->chain);
	pem_key_free(p->key);
	free(p->ciphers);
	free(p);
}

/* The files of a profile, as they are now. */
struct files {
	struct buf ca, cert, key;
};

static void files_wipe(struct files *f)
{
	buf_wipe(&f->ca);
	buf_wipe(&f->cert);
	buf_wipe(&f->key);
}

static bool failed(struct buf *reterr, const char *path, const char *problem)
{
	if (problem != NULL)
		buf_printf(reterr, "%s %s\n", path, problem);
	return problem != NULL;
}

static bool read_files(const struct xfer_tls *s, struct files *ret, struct buf *reterr)
{
	return (s->ca_file == NULL || !failed(reterr, s->ca_file, pem_read(s->ca_file, &ret->ca))) &&
	       (s->cert_file == NULL || !failed(reterr, s->cert_file, pem_read(s->cert_file, &ret->cert))) &&
	       (s->key_file == NULL || !failed(reterr, s->key_file, pem_read(s->key_file, &ret->key)));
}

/* The store of an earlier service with the same file. */
static X509_STORE *find_trust(const struct xfer_tls *services, const struct xfer_tls_set *set, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		if (services[i].ca_file == NULL || strcmp(services[i].ca_file, services[n].ca_file) != 0)
			continue;
		X509_STORE_up_ref(set->profiles[i]->trust);
		return set->profiles[i]->trust;
	}
	return NULL;
}

static bool parse(const struct xfer_tls *s, const struct files *f, struct tls_profile *p, struct buf *reterr)
{
	if (s->ca_file != NULL && p->trust == NULL && failed(reterr, s->ca_file, pem_trust(buf_slice(&f->ca), &p->trust)))
		return false;
	if (s->cert_file == NULL)
		return true;
	return !failed(reterr, s->cert_file, pem_chain(buf_slice(&f->cert), &p->chain)) &&
	       !failed(reterr, s->key_file, pem_key(buf_slice(&f->key), &p->key)) &&
	       !failed(reterr, s->key_file, pem_key_fits(p->key, &p->chain) ? NULL : "is not the key of the certificate");
}

/* What the system's policy allows, which a list of ours must not undo, and the tag. */
static bool add_ciphers(SSL_CTX *ctx, struct slice tag, struct buf *out)
{
	STACK_OF(SSL_CIPHER) *all = SSL_CTX_get_ciphers(ctx);

	for (int i = 0; i < sk_SSL_CIPHER_num(all); i++)
		buf_printf(out, "%s:", SSL_CIPHER_get_name(sk_SSL_CIPHER_value(all, i)));
	buf_add_slice(out, tag);
	buf_add_char(out, '\0');
	return !out->failed;
}

static bool make_tag(const struct files *f, struct buf *out)
{
	const struct slice parts[] = {buf_slice(&f->ca), SLICE("|"), buf_slice(&f->cert), SLICE("|"), buf_slice(&f->key)};
	unsigned char mac[DIGEST_BYTES];

	if (!digest_hmac(SLICE("profile"), parts, ARRAY_LEN(parts), mac))
		return false;
	buf_add_str(out, "P");
	for (size_t i = 0; i < DIGEST_BYTES / 2; i++)
		buf_printf(out, "%02x", mac[i]);
	return !out->failed;
}

/* Try it as a connection would. */
static const char *finish_profile(struct tls_profile *p, const struct files *f)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
	struct buf tag = {0}, ciphers = {0};
	const char *problem = NULL;

	if (ctx == NULL || !make_tag(f, &tag) || !add_ciphers(ctx, buf_slice(&tag), &ciphers))
		problem = "cannot be used: out of memory";
	else if (!show(ctx, p))
		problem = "is refused by the TLS library: is its key too short for the system's policy?";
	else
		p->ciphers = STEAL_PTR(ciphers.p);
	ERR_clear_error();
	buf_free(&tag);
	buf_free(&ciphers);
	SSL_CTX_free(ctx);
	return problem;
}

static struct tls_profile *new_profile(const struct xfer_tls *services, const struct xfer_tls_set *set, size_t n,
				       struct buf *reterr)
{
	const struct xfer_tls *s = &services[n];
	struct tls_profile *p = xcalloc(1, sizeof *p);
	struct files f CLEANUP(files_wipe) = {0};

	atomic_init(&p->refs, 1);
	if (s->ca_file != NULL)
		p->trust = find_trust(services, set, n);
	if (read_files(s, &f, reterr) && parse(s, &f, p, reterr) &&
	    !failed(reterr, s->cert_file != NULL ? s->cert_file : s->ca_file, finish_profile(p, &f)))
		return p;
	xfer_tls_unref(p);
	return NULL;
}

struct xfer_tls_set *xfer_tls_load(const struct xfer_tls *services, size_t n, struct buf *reterr)
{
	struct xfer_tls_set *set = xcalloc(1, sizeof *set);
	bool ok = true;

	set->profiles = xcalloc(MAX(n, (size_t)1), sizeof(struct tls_profile *));
	set->n = n;
	for (size_t i = 0; i < n; i++) {
		if (services[i].ca_file == NULL && services[i].cert_file == NULL)
			continue;
		set->profiles[i] = new_profile(services, set, i, reterr);
		if (set->profiles[i] == NULL) {
			ok = false;
			break;
		}
	}
	if (ok)
		return set;
	xfer_tls_set_free(set);
	return NULL;
}

void xfer_tls_set_free(struct xfer_tls_set *set)
{
	if (set == NULL)
		return;
	for (size_t i = 0; i < set->n; i++)
		xfer_tls_unref(set->profiles[i]);
	free(set->profiles);
	free(set);
}

void xfer_tls_use(struct xfer_tls_set *take)
{
	struct xfer_tls_set *old;
	X509_STORE *old_store;

	pthread_mutex_lock(&lock);
	old = current;
	current = take;
	old_store = STEAL_PTR(store);
	pthread_mutex_unlock(&lock);
	xfer_tls_set_free(old);
	X509_STORE_free(old_store);
}
