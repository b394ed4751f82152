/*
 * SHA-256 (FIPS 180-4) and HMAC-SHA-256 (RFC 2104), by libcrypto. Any thread.
 * False: no memory, or libcrypto refuses.
 */
#pragma once

#include "base/slice.h"

enum { DIGEST_BYTES = 32 };

bool digest_sha256(struct slice s, unsigned char ret[DIGEST_BYTES]) MUST_CHECK;

/* Are they the same? In a time that does not depend on where they differ. */
bool digest_equal(const unsigned char a[DIGEST_BYTES], const unsigned char b[DIGEST_BYTES]);

/* The MAC of `parts`, one after the other. */
bool digest_hmac(struct slice key, const struct slice *parts, size_t n_parts, unsigned char ret[DIGEST_BYTES]) MUST_CHECK;

/* Base 64 with padding (RFC 4648 section 4), and a NUL. */
enum { DIGEST_BASE64 = (DIGEST_BYTES + 2) / 3 * 4 };
void digest_base64(const unsigned char digest[DIGEST_BYTES], char ret[DIGEST_BASE64 + 1]);
