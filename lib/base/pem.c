#include "base/pem.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>

enum { FILE_MAX = 1024 * 1024 };

static const char no_memory[] = "cannot be read: out of memory";

const char *pem_read(const char *path, struct buf *ret)
{
	int err = buf_read_file(path, FILE_MAX, ret);

	if (err == 0)
		return NULL;
	buf_wipe(ret);
	switch (-err) {
	case EFBIG:
		return "is larger than 1 MiB";
	case ENOENT:
		return "does not exist";
	case EACCES:
		return "cannot be read: this user has no permission";
	case EISDIR:
		return "is a directory";
	}
	return "cannot be read";
}

static BIO *open_text(struct slice text)
{
	return BIO_new_mem_buf(text.n > 0 ? text.p : "", (int)text.n);
}

/* After the last certificate there is none, which is no error of the file. */
static const char *end_of(unsigned n)
{
	unsigned long err = ERR_peek_last_error();
	bool at_end = ERR_GET_LIB(err) == ERR_LIB_PEM && ERR_GET_REASON(err) == PEM_R_NO_START_LINE;

	ERR_clear_error();
	if (!at_end)
		return "holds a certificate that cannot be parsed";
	return n == 0 ? "holds no certificate in PEM form" : NULL;
}

const char *pem_chain(struct slice text, struct pem_chain *ret)
{
	BIO *bio = open_text(text);
	const char *problem;
	unsigned n = 0;
	X509 *cert;

	*ret = (struct pem_chain){.rest = sk_X509_new_null()};
	ERR_clear_error();
	while (bio != NULL && ret->rest != NULL && (cert = PEM_read_bio_X509(bio, NULL, NULL, NULL)) != NULL) {
		if (n++ == 0)
			ret->cert = cert;
		else if (sk_X509_push(ret->rest, cert) == 0)
			X509_free(cert);
	}
	problem = bio == NULL || ret->rest == NULL ? no_memory : end_of(n);
	BIO_free(bio);
	if (problem != NULL)
		pem_chain_free(ret);
	return problem;
}

void pem_chain_free(struct pem_chain *c)
{
	X509_free(c->cert);
	sk_X509_pop_free(c->rest, X509_free);
	*c = (struct pem_chain){0};
}

const char *pem_trust(struct slice text, X509_STORE **ret)
{
	struct pem_chain all;
	const char *problem = pem_chain(text, &all);
	bool ok;

	*ret = NULL;
	if (problem != NULL)
		return problem;
	*ret = X509_STORE_new();
	ok = *ret != NULL && X509_STORE_add_cert(*ret, all.cert) == 1;
	for (int i = 0; ok && i < sk_X509_num(all.rest); i++)
		ok = X509_STORE_add_cert(*ret, sk_X509_value(all.rest, i)) == 1;
	if (ok)
		X509_STORE_set_flags(*ret, X509_V_FLAG_PARTIAL_CHAIN);
	pem_chain_free(&all);
	if (ok)
		return NULL;
	pem_trust_free(*ret);
	*ret = NULL;
	return no_memory;
}

void pem_trust_free(X509_STORE *trust)
{
	X509_STORE_free(trust);
}

/* Instead of the terminal. */
static int no_passphrase(char *buf, int size, int writing, void *arg)
{
	(void)buf;
	(void)size;
	(void)writing;
	*(bool *)arg = true;
	return -1;
}

const char *pem_key(struct slice text, EVP_PKEY **ret)
{
	bool asked = false;
	BIO *bio = open_text(text);

	*ret = bio == NULL ? NULL : PEM_read_bio_PrivateKey(bio, NULL, no_passphrase, &asked);
	BIO_free(bio);
	ERR_clear_error();
	if (*ret != NULL)
		return NULL;
	return asked ? "holds a key with a passphrase" : "holds no private key in PEM form";
}

void pem_key_free(EVP_PKEY *key)
{
	EVP_PKEY_free(key);
}

bool pem_key_fits(const EVP_PKEY *key, const struct pem_chain *chain)
{
	bool fits = EVP_PKEY_eq(X509_get0_pubkey(chain->cert), key) == 1;

	ERR_clear_error();
	return fits;
}
