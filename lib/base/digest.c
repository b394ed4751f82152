#include "base/digest.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <pthread.h>

/* Looking an algorithm up costs more than using it: once per process. */
static EVP_MAC *hmac;
static EVP_MD *sha256;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static void fetch(void)
{
	hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
	sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
}

bool digest_sha256(struct slice s, unsigned char ret[DIGEST_BYTES])
{
	pthread_once(&once, fetch);
	return sha256 != NULL && EVP_Digest(s.p, s.n, ret, NULL, sha256, NULL) == 1;
}

bool digest_equal(const unsigned char a[DIGEST_BYTES], const unsigned char b[DIGEST_BYTES])
{
	return CRYPTO_memcmp(a, b, DIGEST_BYTES) == 0;
}

static void free_ctx(EVP_MAC_CTX **ctx)
{
	EVP_MAC_CTX_free(*ctx);
}

bool digest_hmac(struct slice key, const struct slice *parts, size_t n_parts, unsigned char ret[DIGEST_BYTES])
{
	const OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
		OSSL_PARAM_construct_end(),
	};
	EVP_MAC_CTX *ctx CLEANUP(free_ctx) = NULL;
	size_t n;

	pthread_once(&once, fetch);
	if (hmac == NULL || (ctx = EVP_MAC_CTX_new(hmac)) == NULL)
		return false;
	if (EVP_MAC_init(ctx, (const unsigned char *)key.p, key.n, params) != 1)
		return false;
	for (size_t i = 0; i < n_parts; i++) {
		if (EVP_MAC_update(ctx, (const unsigned char *)parts[i].p, parts[i].n) != 1)
			return false;
	}
	return EVP_MAC_final(ctx, ret, &n, DIGEST_BYTES) == 1;
}

void digest_base64(const unsigned char digest[DIGEST_BYTES], char ret[DIGEST_BASE64 + 1])
{
	EVP_EncodeBlock((unsigned char *)ret, digest, DIGEST_BYTES);
}
