/*
 * Certificates and private keys from PEM text (RFC 7468), by libcrypto. Any
 * thread. What is returned is libcrypto's, with references that are counted:
 * X509_STORE, X509, STACK_OF(X509), EVP_PKEY.
 *
 * Errors: each function returns NULL, or static text that says what is wrong with
 * the file, after "it" or its name; then nothing is returned otherwise.
 */
#pragma once

#include "base/buf.h"

struct x509_store_st;
struct x509_st;
struct stack_st_X509;
struct evp_pkey_st;

/* A whole file, to be wiped; never more than 1 MiB. */
const char *pem_read(const char *path, struct buf *ret) MUST_CHECK;

/* Every certificate of the text is an authority to trust, also one in the middle
 * of a chain. */
const char *pem_trust(struct slice text, struct x509_store_st **ret) MUST_CHECK;

/* The first certificate is the owner's, the others lead to an authority. */
struct pem_chain {
	struct x509_st *cert;
	struct stack_st_X509 *rest;
};
const char *pem_chain(struct slice text, struct pem_chain *ret) MUST_CHECK;
void pem_chain_free(struct pem_chain *c);

/* A key with a passphrase is refused; nobody is asked for one. */
const char *pem_key(struct slice text, struct evp_pkey_st **ret) MUST_CHECK;
void pem_key_free(struct evp_pkey_st *key);      /* wipes; NULL is fine */

bool pem_key_fits(const struct evp_pkey_st *key, const struct pem_chain *chain);
void pem_trust_free(struct x509_store_st *trust);        /* NULL is fine */
