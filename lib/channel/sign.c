#include "base/digest.h"
#include "channel/channel-i.h"

bool channel_sign(struct slice secret, struct slice id, struct slice timestamp, struct slice payload,
		  struct buf *out)
{
	const struct slice parts[] = {id, SLICE("."), timestamp, SLICE("."), payload};
	unsigned char mac[DIGEST_BYTES];
	char text[DIGEST_BASE64 + 1];

	if (!digest_hmac(secret, parts, ARRAY_LEN(parts), mac))
		return false;
	digest_base64(mac, text);
	buf_add_str(out, "v1,");
	buf_add_str(out, text);
	return !out->failed;
}
