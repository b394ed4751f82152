/*
 * The names of services on the medium, and the indexes that they have in this process.
 *
 * Invariants
 *  1. A name keeps its number as long as the file lives; no number is used again.
 *  2. service_no belongs to whoever has the store's turn. service_of is read by the
 *     thread that reads, at any time: it is as long as it will ever be, and each of
 *     its values changes at once.
 */
#include <stdlib.h>

#include "store/sqlite-i.h"

static int add_one(sqlite3_stmt *find, sqlite3_stmt *add, const char *text, int64_t *ret)
{
	struct slice name = slice_str(text);
	struct binder b = sqlite_bind(add);
	int rc;

	bind_text(&b, name);
	rc = sqlite_run(&b);
	if (rc != SQLITE_OK)
		return rc;
	b = sqlite_bind(find);
	bind_text(&b, name);
	rc = sqlite3_step(find);
	if (rc == SQLITE_ROW)
		*ret = sqlite3_column_int64(find, 0);
	sqlite3_reset(find);
	return rc == SQLITE_ROW ? SQLITE_OK : rc;
}

/* Those from s->n_services on, in one transaction. */
static int add_all(struct sqlite *s, const char *const *names, size_t n)
{
	sqlite3_stmt *find = NULL, *add = NULL;
	int rc = sqlite3_prepare_v2(s->writer, "SELECT n FROM service WHERE name = ?", -1, &find, NULL);

	if (rc == SQLITE_OK)
		rc = sqlite3_prepare_v2(s->writer, "INSERT INTO service (name) SELECT ?1 WHERE NOT EXISTS "
					"(SELECT 1 FROM service WHERE name = ?1)", -1, &add, NULL);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(s->writer, "BEGIN IMMEDIATE", NULL, NULL, NULL);
	for (size_t i = s->n_services; rc == SQLITE_OK && i < n; i++)
		rc = add_one(find, add, names[i], &s->service_no[i]);
	sqlite3_finalize(find);
	sqlite3_finalize(add);
	if (rc == SQLITE_OK)
		rc = sqlite3_exec(s->writer, "COMMIT", NULL, NULL, NULL);
	if (rc != SQLITE_OK && !sqlite3_get_autocommit(s->writer))
		sqlite3_exec(s->writer, "ROLLBACK", NULL, NULL, NULL);
	return rc;
}

bool sqlite_name_services(struct backend *b, const char *const *names, size_t n, struct buf *reterr)
{
	struct sqlite *s = sqlite_of(b);
	int rc;

	REQUIRE(n <= s->service_slots);
	if (n <= s->n_services)
		return true;
	rc = add_all(s, names, n);
	if (rc != SQLITE_OK)
		return sqlite_refuse(s->path, s->writer, rc, reterr);
	s->n_services = n;
	return true;
}

void sqlite_set_services(struct backend *b, const bool *gone, size_t n)
{
	struct sqlite *s = sqlite_of(b);

	for (size_t i = 0; i < n; i++)
		atomic_store(&s->service_of[s->service_no[i]], gone[i] ? (uint16_t)ITEM_NO_SERVICE : (uint16_t)i);
}

bool sqlite_services_open(struct sqlite *s, struct buf *reterr)
{
	const struct store_config *cfg = s->base.cfg;
	int64_t next = 0;
	bool *gone;
	int rc;

	s->service_slots = MAX(cfg->service_slots, cfg->n_services);
	s->service_no = xcalloc(s->service_slots + 1, sizeof *s->service_no);
	if (!sqlite_name_services(&s->base, cfg->services, cfg->n_services, reterr))
		return false;
	rc = sqlite_number(s->writer, "SELECT ifnull(max(n), 0) + 1 FROM service", &next);
	if (rc != SQLITE_OK)
		return sqlite_refuse(s->path, s->writer, rc, reterr);
	s->n_service_of = next + (int64_t)(s->service_slots - cfg->n_services);
	s->service_of = xcalloc((size_t)s->n_service_of, sizeof *s->service_of);
	for (int64_t i = 0; i < s->n_service_of; i++)
		atomic_init(&s->service_of[i], (uint16_t)ITEM_NO_SERVICE);
	gone = xcalloc(cfg->n_services + 1, sizeof *gone);
	sqlite_set_services(&s->base, gone, cfg->n_services);
	free(gone);
	return true;
}
