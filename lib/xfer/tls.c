/*
 * The certificates that every shard trusts: one store per process, made when
 * the first https connection needs it. libcurl's own way would read the whole
 * bundle for each new connection, 29 ms on the loop.
 *
 * Invariants
 *  1. `store` is written once, under `lock`, and only xfer_tls_free() unsets it.
 *  2. Sources are OpenSSL's: SSL_CERT_FILE and SSL_CERT_DIR, or the defaults.
 *     A hashed directory is read one certificate at a time as they are needed;
 *     a whole bundle is the second choice, as it costs 25 ms and megabytes.
 */
#include <dirent.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "xfer/xfer-i.h"

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static X509_STORE *store;

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

CURLcode xfer_tls_configure(void *ssl_ctx)
{
	X509_STORE *s;

	pthread_mutex_lock(&lock);
	if (store == NULL)
		store = load();
	s = store;
	pthread_mutex_unlock(&lock);
	/* A missing file leaves an error that would be taken for the handshake's. */
	ERR_clear_error();
	if (s == NULL)
		return CURLE_OUT_OF_MEMORY;
	SSL_CTX_set1_cert_store(ssl_ctx, s);
	return CURLE_OK;
}

void xfer_tls_free(void)
{
	X509_STORE_free(store);
	store = NULL;
}
