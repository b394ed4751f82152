/*
 * The files that a service's TLS needs: read here so that a wrong one is found
 * before it is needed, and read again by who uses them.
 */
#include "base/pem.h"
#include "config/config-i.h"

#include <strings.h>

static bool read_text(const struct node *n, const char *path, struct buf *ret, struct report *rep)
{
	const char *problem = pem_read(path, ret);

	if (problem != NULL)
		cfg_report_node(rep, n, "%s %s: give a PEM file", cfg_shown_slice(n->raw).s, problem);
	return problem == NULL;
}

static void check_trust(const struct node *n, const char *path, struct report *rep)
{
	struct x509_store_st *trust;
	struct buf text = {0};
	const char *problem;

	if (!read_text(n, path, &text, rep))
		return;
	problem = pem_trust(buf_slice(&text), &trust);
	buf_wipe(&text);
	if (problem != NULL)
		cfg_report_node(rep, n, "%s %s: give the certificates of authorities in PEM form",
		                cfg_shown_slice(n->raw).s, problem);
	else
		pem_trust_free(trust);
}

static bool load_chain(const struct node *n, const char *path, struct pem_chain *ret, struct report *rep)
{
	struct buf text = {0};
	const char *problem;

	if (!read_text(n, path, &text, rep))
		return false;
	problem = pem_chain(buf_slice(&text), ret);
	buf_wipe(&text);
	if (problem != NULL)
		cfg_report_node(rep, n, "%s %s: give the certificate and its intermediates in PEM form",
		                cfg_shown_slice(n->raw).s, problem);
	return problem == NULL;
}

static bool load_key(const struct node *n, const char *path, struct evp_pkey_st **ret, struct report *rep)
{
	struct buf text = {0};
	const char *problem;

	if (!read_text(n, path, &text, rep))
		return false;
	problem = pem_key(buf_slice(&text), ret);
	buf_wipe(&text);
	if (problem != NULL)
		cfg_report_node(rep, n, "%s %s: give the private key of cert_file in PEM form, without a passphrase",
		                cfg_shown_slice(n->raw).s, problem);
	return problem == NULL;
}

static void check_identity(const struct node *cert, const struct node *key, const struct service *s, struct report *rep)
{
	struct pem_chain chain = {0};
	struct evp_pkey_st *private_key = NULL;
	bool ok = load_chain(cert, s->cert_file, &chain, rep);

	ok = load_key(key, s->key_file, &private_key, rep) && ok;
	if (ok && !pem_key_fits(private_key, &chain))
		cfg_report_node(rep, key, "%s is not the key of the certificate in %s: give the two that belong together",
		                cfg_shown_slice(key->raw).s, cfg_shown_slice(cert->raw).s);
	pem_chain_free(&chain);
	pem_key_free(private_key);
}

void cfg_certs_check(const struct node *map, const struct service *s, struct report *rep)
{
	static const char *const names[] = {"ca_file", "cert_file", "key_file"};
	const struct node *ca = cfg_node_find(map, "ca_file");
	const struct node *cert = cfg_node_find(map, "cert_file");
	const struct node *key = cfg_node_find(map, "key_file");
	bool plain = s->url != NULL && strncasecmp(s->url, "http:", 5) == 0;

	for (size_t i = 0; plain && i < ARRAY_LEN(names); i++) {
		const struct node *n = cfg_node_find(map, names[i]);

		if (n != NULL)
			cfg_report_key(rep, n, "the URL is plain http, so no certificate is looked at: begin it with https://");
	}
	if (plain)
		return;
	if (s->ca_file != NULL)
		check_trust(ca, s->ca_file, rep);
	if (cert == NULL && key != NULL)
		cfg_report_missing(rep, map, "cert_file", "required with key_file: give the certificate of the key");
	else if (cert != NULL && key == NULL)
		cfg_report_missing(rep, map, "key_file", "required with cert_file: give the key of the certificate");
	else if (s->cert_file != NULL && s->key_file != NULL)
		check_identity(cert, key, s, rep);
}
