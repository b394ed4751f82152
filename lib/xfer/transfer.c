/*
 * One transfer: its request into an easy handle, its answer out of the
 * callbacks, and at the end the verdict on what happened.
 *
 * Invariants
 *  1. Constant options are set once, by xfer_transfer_new(); a start sets the
 *     address, the method, the body and the headers, each of them every time.
 *  2. The callbacks record facts in `seen` and never end a transfer other than
 *     by their return value.
 *  3. `wrote` is false only where no request byte can have reached the socket.
 *     A TLS write that fails may have sent whole records, so there the attempt
 *     to send counts, not libcurl's number of bytes.
 *  4. A status line that has arrived is evidence that nothing later takes back.
 */
#include <errno.h>
#include <openssl/ssl.h>
#include <stdlib.h>
#include <strings.h>

#include "xfer/xfer-i.h"

enum {
	HEAD_LIMIT = 64 * 1024,          /* all header lines of one answer */
	BODY_KEPT = 4096,                /* memory a spare transfer may hold on to */
	COPY_KEPT = 8192,
	RECEIVE_BUFFER = 8 * 1024,
	SEND_BUFFER = 16 * 1024,
};

/* A longer wait than a year is a mistake, or an attack on somebody's arithmetic. */
#define RETRY_AFTER_MAX_MS (INT64_C(366) * 24 * 3600 * 1000)

static int64_t parse_seconds(struct slice v)
{
	int64_t s = 0;

	for (size_t i = 0; i < v.n; i++) {
		if (v.p[i] < '0' || v.p[i] > '9')
			return RETRY_AFTER_NONE;
		s = MIN(s * 10 + (v.p[i] - '0'), RETRY_AFTER_MAX_MS / 1000);
	}
	return v.n == 0 ? RETRY_AFTER_NONE : s * 1000;
}

static int64_t parse_date(struct slice v, int64_t now_unix_ms)
{
	char text[64];
	time_t at;

	if (v.n >= sizeof text)
		return RETRY_AFTER_NONE;
	memcpy(text, v.p, v.n);
	text[v.n] = '\0';
	at = curl_getdate(text, NULL);
	if (at == -1)
		return RETRY_AFTER_NONE;
	return MAX((int64_t)at * 1000 - now_unix_ms, INT64_C(0));
}

static void note_retry_after(struct transfer *t, struct slice value)
{
	int64_t ms = parse_seconds(value);

	if (ms == RETRY_AFTER_NONE)
		ms = parse_date(value, loop_unix_ms(t->x->loop));
	if (ms != RETRY_AFTER_NONE)
		t->seen.retry_after_ms = MIN(ms, RETRY_AFTER_MAX_MS);
}

/* Only the final status counts; 1xx lines come before it. */
static void note_status(struct transfer *t)
{
	long code = 0;

	curl_easy_getinfo(t->easy, CURLINFO_RESPONSE_CODE, &code);
	if (code >= 200)
		t->seen.status = (int)code;
	t->seen.switched = code == 101;
}

/* CURLOPT_HEADERFUNCTION: one whole line. */
static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
	static const struct slice retry_after = {"retry-after:", 12};
	struct transfer *t = arg;

	(void)size;
	/* libcurl takes "http/1.1 410" for HTTP, and for a 200. */
	if (t->seen.head_n == 0 && p[n - 1] == '\n' && (n <= 5 || memcmp(p, "HTTP/", 5) != 0))
		t->seen.not_http = true;
	t->seen.head_n += n;
	if (t->seen.head_n > HEAD_LIMIT) {
		t->seen.overlong_head = true;
		return 0;
	}
	if (t->seen.status == 0 && n > 5 && memcmp(p, "HTTP/", 5) == 0)
		note_status(t);
	else if (t->seen.status != 0 && n > retry_after.n && strncasecmp(p, retry_after.p, retry_after.n) == 0)
		note_retry_after(t, slice_trim((struct slice){p + retry_after.n, n - retry_after.n}));
	/* What follows a switch is no HTTP, and may never end. */
	return t->seen.switched ? 0 : n;
}

/* CURLOPT_WRITEFUNCTION: returning less than n ends the transfer. */
static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct transfer *t = arg;
	size_t room = t->answer_limit - t->body.n;

	(void)size;
	buf_add(&t->body, p, MIN(n, room));
	if (n <= room && !t->body.failed)
		return n;
	t->seen.overlong_body = true;
	return 0;
}

/* CURLOPT_RESOLVER_START_FUNCTION: its cache does not know the host. */
static int on_resolve(void *resolver, void *reserved, void *arg)
{
	struct transfer *t = arg;

	(void)resolver;
	(void)reserved;
	return xfer_names_allow(t) ? 0 : 1;
}

static void set_callbacks(struct transfer *t)
{
	CURL *c = t->easy;

	curl_easy_setopt(c, CURLOPT_PRIVATE, t);
	curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
	curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
	curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
	curl_easy_setopt(c, CURLOPT_RESOLVER_START_FUNCTION, on_resolve);
	curl_easy_setopt(c, CURLOPT_RESOLVER_START_DATA, t);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, xfer_guard_open);
	curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, t);
	curl_easy_setopt(c, CURLOPT_PREREQFUNCTION, xfer_guard_request);
	curl_easy_setopt(c, CURLOPT_PREREQDATA, t);
	curl_easy_setopt(c, CURLOPT_SSL_CTX_DATA, t);
	/* The socket outlives the transfer, so this one gets the owner of both. */
	curl_easy_setopt(c, CURLOPT_CLOSESOCKETFUNCTION, xfer_sockets_on_close);
	curl_easy_setopt(c, CURLOPT_CLOSESOCKETDATA, t->x);
}

/* CURLOPT_SSL_CTX_FUNCTION: connected, and about to begin the handshake. */
static CURLcode on_handshake(CURL *easy, void *ssl_ctx, void *arg)
{
	struct transfer *t = arg;

	(void)easy;
	t->seen.handshake = true;
	return xfer_tls_configure(t->profile, ssl_ctx);
}

/* False: no memory, or a libcurl without something that safety needs. */
static bool set_constants(struct transfer *t)
{
	CURL *c = t->easy;
	const struct xfer *x = t->x;

	curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
	/* Addresses come from the resolver, which keeps them longer. */
	curl_easy_setopt(c, CURLOPT_DNS_CACHE_TIMEOUT, 1L);
	curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
	curl_easy_setopt(c, CURLOPT_HTTP09_ALLOWED, 0L);
	curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 0L);
	curl_easy_setopt(c, CURLOPT_NETRC, (long)CURL_NETRC_IGNORED);
	curl_easy_setopt(c, CURLOPT_BUFFERSIZE, (long)RECEIVE_BUFFER);
	curl_easy_setopt(c, CURLOPT_UPLOAD_BUFFERSIZE, (long)SEND_BUFFER);
	curl_easy_setopt(c, CURLOPT_MAXAGE_CONN, (long)MAX(x->idle_ms / 1000, INT64_C(1)));
	curl_easy_setopt(c, CURLOPT_FORBID_REUSE, (long)(x->max_idle == 0));
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYPEER, 1L);
	curl_easy_setopt(c, CURLOPT_SSL_VERIFYHOST, 2L);
	set_callbacks(t);
	return curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https") == CURLE_OK &&
	       /* An empty proxy keeps http_proxy out, which the guard could not see past. */
	       curl_easy_setopt(c, CURLOPT_PROXY, "") == CURLE_OK &&
	       /* Not given, it is looked for in the environment, for each transfer. */
	       curl_easy_setopt(c, CURLOPT_NOPROXY, "*") == CURLE_OK &&
	       curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2) == CURLE_OK &&
	       /* It would keep the first store of ours that it sees, and give it to every host. */
	       curl_easy_setopt(c, CURLOPT_CA_CACHE_TIMEOUT, 0L) == CURLE_OK &&
	       curl_easy_setopt(c, CURLOPT_CAINFO, NULL) == CURLE_OK &&
	       curl_easy_setopt(c, CURLOPT_CAPATH, NULL) == CURLE_OK &&
	       curl_easy_setopt(c, CURLOPT_SSL_CTX_FUNCTION, on_handshake) == CURLE_OK &&
	       curl_easy_setopt(c, CURLOPT_USERAGENT, x->user_agent) == CURLE_OK;
}

struct transfer *xfer_transfer_new(struct xfer *x)
{
	struct transfer *t = calloc(1, sizeof *t);

	if (t == NULL)
		return NULL;
	list_init(&t->node);
	t->x = x;
	t->easy = curl_easy_init();
	if (t->easy != NULL && set_constants(t))
		return t;
	xfer_transfer_free(t);
	return NULL;
}

void xfer_transfer_free(struct transfer *t)
{
	if (t == NULL)
		return;
	curl_easy_cleanup(t->easy);
	curl_url_cleanup(t->url);
	buf_free(&t->body);
	buf_free(&t->addresses);
	xfer_tls_unref(t->profile);
	free(t->copy);
	free(t);
}

/* Ready for another start; gives back what an unusual request had grown. */
void xfer_transfer_reset(struct transfer *t)
{
	xfer_tls_unref(STEAL_PTR(t->profile));
	if (t->body.cap > BODY_KEPT || t->body.failed)
		buf_free(&t->body);
	t->body.n = 0;
	if (t->copy_cap > COPY_KEPT) {
		free(STEAL_PTR(t->copy));
		t->copy_cap = 0;
	}
}

static bool reserve_copy(struct transfer *t, size_t need)
{
	char *p;

	if (need <= t->copy_cap)
		return true;
	p = realloc(t->copy, need);
	if (p == NULL)
		return false;
	t->copy = p;
	t->copy_cap = need;
	return true;
}

static bool has_header(const struct exchange *e, const char *name_colon)
{
	for (size_t i = 0; i < e->n_headers; i++) {
		if (strncasecmp(e->headers[i], name_colon, strlen(name_colon)) == 0)
			return true;
	}
	return false;
}

/* Lay out header nodes, ranges and header lines in one block, as libcurl only
 * borrows its list. False: no memory. */
static bool copy_lists(struct transfer *t, const struct exchange *e, struct curl_slist **ret)
{
	/* Nodes without a value keep a header out that libcurl would add: a wait
	 * for 100 (Continue), and a type that the body does not have. */
	static char no_expect[] = "Expect:", no_type[] = "Content-Type:";
	bool typed = has_header(e, no_type);
	size_t n_nodes = e->n_headers + (typed ? 1 : 2);
	size_t need = n_nodes * sizeof(struct curl_slist) + e->n_allow * sizeof(struct cidr);
	struct curl_slist *nodes;
	char *p;

	for (size_t i = 0; i < e->n_headers; i++)
		need += strlen(e->headers[i]) + 1;
	if (!reserve_copy(t, need))
		return false;
	nodes = (struct curl_slist *)(void *)t->copy;
	p = (char *)(nodes + n_nodes);
	t->allow = (const struct cidr *)(void *)p;
	t->n_allow = e->n_allow;
	if (e->n_allow > 0)
		p = mempcpy(p, e->allow, e->n_allow * sizeof *e->allow);
	for (size_t i = 0; i < n_nodes; i++) {
		nodes[i].next = i + 1 < n_nodes ? &nodes[i + 1] : NULL;
		if (i < e->n_headers) {
			nodes[i].data = p;
			p = stpcpy(p, e->headers[i]) + 1;
		} else {
			nodes[i].data = i == e->n_headers ? no_expect : no_type;
		}
	}
	*ret = nodes;
	return true;
}

/* RFC 9110: a request of these methods without content still says so. */
static bool method_has_content(const char *method)
{
	return strcmp(method, "POST") == 0 || strcmp(method, "PUT") == 0 || strcmp(method, "PATCH") == 0;
}

static CURLcode set_method(struct transfer *t, const struct exchange *e)
{
	CURL *c = t->easy;
	const char *own = "POST";
	CURLcode rc = CURLE_OK;

	curl_easy_setopt(c, CURLOPT_NOBODY, 0L);
	if (e->body.n > 0 || method_has_content(e->method)) {
		curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)e->body.n);
		curl_easy_setopt(c, CURLOPT_POSTFIELDS, e->body.n > 0 ? e->body.p : "");
	} else if (strcmp(e->method, "HEAD") == 0) {
		own = "HEAD";
		curl_easy_setopt(c, CURLOPT_NOBODY, 1L);
	} else {
		own = "GET";
		curl_easy_setopt(c, CURLOPT_HTTPGET, 1L);
	}
	if (strcmp(e->method, own) != 0) {
		rc = curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, e->method);
		t->custom_method = true;
	} else if (t->custom_method) {
		curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, NULL);
		t->custom_method = false;
	}
	return rc;
}

/* Whom to trust and what to show, which also says whose connections may be used. */
static CURLcode set_profile(struct transfer *t)
{
	t->profile = t->tls ? xfer_tls_profile(t->service) : NULL;
	if (t->profile == NULL && !t->own_ciphers)
		return CURLE_OK;
	t->own_ciphers = t->profile != NULL;
	return curl_easy_setopt(t->easy, CURLOPT_SSL_CIPHER_LIST, xfer_tls_ciphers(t->profile));
}

/* libcurl gets the URL in parts: of a text it would make a second, normal one by
 * itself, letter by letter. The parts are new each time, as a text without a scheme
 * would be relative to what is there; and none is left of what is no URL, as
 * libcurl then says. False: no memory. */
static bool set_url(struct transfer *t, const char *url)
{
	CURLU *parts = curl_url();

	if (parts == NULL)
		return false;
	curl_easy_setopt(t->easy, CURLOPT_CURLU, parts);
	curl_url_cleanup(t->url);
	t->url = parts;
	return curl_url_set(parts, CURLUPART_URL, url, CURLU_GUESS_SCHEME | CURLU_NON_SUPPORT_SCHEME | CURLU_PATH_AS_IS) !=
	       CURLUE_OUT_OF_MEMORY;
}

bool xfer_transfer_prepare(struct transfer *t, const struct exchange *e)
{
	struct curl_slist *headers;

	t->fd = -1;
	t->lookup = NULL;
	t->seen = (struct evidence){.retry_after_ms = RETRY_AFTER_NONE};
	t->service = e->service;
	t->guarded = e->guarded;
	t->tls = strncasecmp(e->url, "https:", 6) == 0;
	t->body_n = e->body.n;
	t->answer_limit = e->answer_limit;
	curl_easy_setopt(t->easy, CURLOPT_RESOLVE, NULL);
	if (!copy_lists(t, e, &headers))
		return false;
	curl_easy_setopt(t->easy, CURLOPT_HTTPHEADER, headers);
	return set_method(t, e) == CURLE_OK && set_profile(t) == CURLE_OK && set_url(t, e->url);
}

static bool has_written(const struct transfer *t)
{
	long bytes = 0;

	if (t->seen.requests == 0)
		return false;
	if (t->tls)
		return true;
	curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &bytes);
	return bytes > 0;
}

static bool has_sent_all(const struct transfer *t)
{
	curl_off_t sent = 0;
	long bytes = 0;

	curl_easy_getinfo(t->easy, CURLINFO_SIZE_UPLOAD_T, &sent);
	curl_easy_getinfo(t->easy, CURLINFO_REQUEST_SIZE, &bytes);
	/* libcurl only re-sends what went out; its counter of the body starts anew. */
	return bytes > 0 && (t->seen.resend || sent >= (curl_off_t)t->body_n);
}

static enum phase phase_of(const struct transfer *t)
{
	if (t->seen.head_n > 0)
		return PHASE_RECEIVE;
	if (t->seen.requests > 0)
		return has_sent_all(t) ? PHASE_WAIT : PHASE_SEND;
	if (t->seen.handshake)
		return PHASE_TLS;
	if (t->seen.connecting || t->seen.refused)
		return PHASE_CONNECT;
	return t->seen.resolving ? PHASE_RESOLVE : PHASE_QUEUE;
}

struct verdict {
	int rc;                          /* CURLcode */
	enum answer_end end;
	const char *detail;
};

static struct verdict by_code(CURLcode rc)
{
	static const struct verdict table[] = {
		{CURLE_COULDNT_RESOLVE_HOST, ANSWER_NO_CONNECTION, "the host name does not resolve"},
		{CURLE_COULDNT_CONNECT, ANSWER_NO_CONNECTION, NULL},
		{CURLE_OPERATION_TIMEDOUT, ANSWER_NO_CONNECTION, "no connection to the host in time"},
		{CURLE_SSL_CONNECT_ERROR, ANSWER_NO_CONNECTION, "the TLS handshake failed"},
		{CURLE_SSL_CIPHER, ANSWER_NO_CONNECTION, "the TLS handshake failed"},
		{CURLE_PEER_FAILED_VERIFICATION, ANSWER_NO_CONNECTION, NULL},
		{CURLE_SSL_ISSUER_ERROR, ANSWER_NO_CONNECTION, "the certificate is not trusted"},
		{CURLE_SSL_CACERT_BADFILE, ANSWER_NO_CONNECTION, "no trusted certificates to check with"},
		{CURLE_SSL_CLIENTCERT, ANSWER_NO_CONNECTION, "the host wants a client certificate"},
		{CURLE_GOT_NOTHING, ANSWER_LOST, "the connection ended without an answer"},
		{CURLE_SEND_ERROR, ANSWER_LOST, "the connection broke while sending"},
		{CURLE_RECV_ERROR, ANSWER_LOST, "the connection broke before an answer"},
		{CURLE_PARTIAL_FILE, ANSWER_LOST, "the connection broke before an answer"},
		{CURLE_OK, ANSWER_LOST, "the connection ended inside the status line"},
		{CURLE_UNSUPPORTED_PROTOCOL, ANSWER_MALFORMED, "the answer is not HTTP"},
		{CURLE_WEIRD_SERVER_REPLY, ANSWER_MALFORMED, "the answer is not HTTP"},
		/* So it calls a header line over its own limit of 100 KB. */
		{CURLE_OUT_OF_MEMORY, ANSWER_MALFORMED, "the answer's headers are too long"},
	};

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		if (table[i].rc == (int)rc)
			return table[i];
	}
	return (struct verdict){(int)rc, ANSWER_INTERNAL, NULL};
}

/* libcurl has one code for a chain that leads nowhere and for a wrong name. But
 * it asks for the chain's fault only if there is one; else its first value of
 * 1, an unspecified fault, stays. */
static bool chain_is_good(const struct transfer *t)
{
	long fault = -1;

	curl_easy_getinfo(t->easy, CURLINFO_SSL_VERIFYRESULT, &fault);
	return fault == 0 || fault == 1;
}

static const char *certificate_detail(const struct transfer *t)
{
	long fault = -1;

	if (chain_is_good(t))
		return "the certificate is for another host";
	curl_easy_getinfo(t->easy, CURLINFO_SSL_VERIFYRESULT, &fault);
	switch (fault) {
	case X509_V_ERR_CERT_HAS_EXPIRED:
		return "the certificate has expired";
	case X509_V_ERR_CERT_NOT_YET_VALID:
		return "the certificate is not valid yet";
	}
	return "the certificate is not trusted";
}

/* Why the last address did not connect, where the system says more than libcurl. */
static const char *connect_detail(CURL *easy)
{
	long err = 0;

	curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &err);
	switch (err) {
	case ECONNREFUSED:
		return "the host refused the connection";
	case EHOSTUNREACH:
	case ENETUNREACH:
		return "no route to the host";
	case ETIMEDOUT:
		return "the host did not answer the connection";
	case EMFILE:
	case ENFILE:
		return "no file descriptor left for the connection: raise the limit";
	}
	return "no connection to the host";
}

/* The end of a transfer that no final status line has reached. */
static struct verdict judge(const struct transfer *t, CURLcode rc)
{
	struct verdict v = by_code(rc);

	if (rc == CURLE_COULDNT_RESOLVE_HOST && t->seen.name_fault != NULL)
		v.detail = t->seen.name_fault;
	if (rc == CURLE_COULDNT_CONNECT)
		v.detail = connect_detail(t->easy);
	if (t->seen.resend)
		v = (struct verdict){.end = ANSWER_LOST, .detail = "the connection ended without an answer"};
	else if (t->seen.overlong_head)
		v = (struct verdict){.end = ANSWER_MALFORMED, .detail = "the answer's headers are too long"};
	else if (t->seen.not_http)
		v = (struct verdict){.end = ANSWER_MALFORMED, .detail = "the answer is not HTTP"};
	else if (t->seen.switched)
		v = (struct verdict){.end = ANSWER_MALFORMED, .detail = "the host switched protocols unasked"};
	else if (t->seen.refused && !t->seen.connecting)
		v = (struct verdict){.end = ANSWER_FORBIDDEN, .detail = "the address is not allowed"};
	else if (t->seen.requests == 0 && (rc == CURLE_UNSUPPORTED_PROTOCOL || rc == CURLE_URL_MALFORMAT))
		v = (struct verdict){.end = ANSWER_FORBIDDEN, .detail = "not a URL that may be called"};
	else if (rc == CURLE_PEER_FAILED_VERIFICATION)
		v.detail = certificate_detail(t);
	else if (t->seen.requests == 0 && rc == CURLE_OUT_OF_MEMORY)
		v = (struct verdict){.end = ANSWER_NO_CONNECTION, .detail = "out of memory; nothing was sent"};
	else if (t->seen.requests == 0 && v.end == ANSWER_MALFORMED)
		v = (struct verdict){.end = ANSWER_INTERNAL};
	if (v.end == ANSWER_LOST && !t->answer.wrote)
		v.end = ANSWER_NO_CONNECTION;
	else if (v.end == ANSWER_NO_CONNECTION && t->answer.wrote)
		v.end = ANSWER_LOST;
	return v;
}

/* Fill in the answer while the easy handle still knows its numbers. */
void xfer_transfer_conclude(struct transfer *t, CURLcode rc, bool cancelled)
{
	struct verdict v = {.end = ANSWER_COMPLETE};

	t->answer = (struct answer){
		.wrote = has_written(t),
		.status = t->seen.status,
		.phase = phase_of(t),
		.retry_after_ms = t->seen.retry_after_ms,
		.body = buf_slice(&t->body),
	};
	if (cancelled)
		v.end = ANSWER_CANCELLED;
	else if (t->seen.status == 0)
		v = judge(t, rc);
	else if (t->seen.overlong_head || t->seen.overlong_body)
		v.detail = "the answer was cut at its limit";
	else if (rc != CURLE_OK)
		v.detail = "the answer broke off";
	t->answer.end = v.end;
	t->answer.detail = v.detail;
}
