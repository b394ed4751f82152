#include "channel/channel-i.h"

#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <pthread.h>

enum { MAC_BYTES = 32, MAC_BASE64 = (MAC_BYTES + 2) / 3 * 4 };

/* Looking an algorithm up costs more than a signature: once per process. */
static EVP_MAC *hmac;
static pthread_once_t hmac_once = PTHREAD_ONCE_INIT;

static void fetch_hmac(void)
{
	hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
}

static void free_ctx(EVP_MAC_CTX **ctx)
{
	EVP_MAC_CTX_free(*ctx);
}

static bool update(EVP_MAC_CTX *ctx, struct slice s)
{
	return EVP_MAC_update(ctx, (const unsigned char *)s.p, s.n) == 1;
}

bool channel_sign(struct slice secret, struct slice id, struct slice timestamp, struct slice payload,
		  struct buf *out)
{
	const OSSL_PARAM params[] = {
		OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, (char[]){"SHA256"}, 0),
		OSSL_PARAM_construct_end(),
	};
	unsigned char mac[MAC_BYTES], text[MAC_BASE64 + 1];
	EVP_MAC_CTX *ctx CLEANUP(free_ctx) = NULL;
	size_t n;

	pthread_once(&hmac_once, fetch_hmac);
	if (hmac == NULL || (ctx = EVP_MAC_CTX_new(hmac)) == NULL)
		return false;
	if (EVP_MAC_init(ctx, (const unsigned char *)secret.p, secret.n, params) != 1 || !update(ctx, id) ||
	    !update(ctx, SLICE(".")) || !update(ctx, timestamp) || !update(ctx, SLICE(".")) ||
	    !update(ctx, payload) || EVP_MAC_final(ctx, mac, &n, sizeof mac) != 1)
		return false;
	EVP_EncodeBlock(text, mac, MAC_BYTES);
	buf_add_str(out, "v1,");
	buf_add(out, text, MAC_BASE64);
	return !out->failed;
}
