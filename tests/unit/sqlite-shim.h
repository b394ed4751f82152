/*
 * A VFS over the default one, and an allocator over the library's, whose N-th
 * call of a kind fails, once or from then on. To sync a file is to remember what
 * it holds, so that a test can lose all the rest.
 *
 * Use shim_install() before anything else speaks to SQLite.
 */
#pragma once

#include "sqlite-kit.h"

enum shim_kind {
	SHIM_NONE, SHIM_WRITE, SHIM_SYNC, SHIM_OPEN, SHIM_TRUNCATE, SHIM_READ, SHIM_DELETE, SHIM_LOCK, SHIM_SHARED,
	SHIM_ALLOC, SHIM_MAX,
};

static struct {
	enum shim_kind kind;             /* SHIM_NONE: all is well */
	unsigned at, seen;               /* the N-th fails; so many came by */
	bool persistent;                 /* and all after it */
	bool full;                       /* writes: the disk is full; or an I/O error */
	bool dead;                       /* the process has died: nothing reaches a file any more */
	unsigned log_syncs;
	sqlite3_int64 log_room;          /* the log finds no room behind this; 0: it does */
} shim;

struct shim_file {
	sqlite3_file base;
	const char *name;
	sqlite3_file *real;
};

/* The medium as of the last sync: the database, and its log. */
static struct buf shim_synced[2];

static bool shim_hits(enum shim_kind kind)
{
	if (shim.kind != kind)
		return false;
	shim.seen++;
	return shim.persistent ? shim.seen >= shim.at : shim.seen == shim.at;
}

static sqlite3_file *shim_real(sqlite3_file *f)
{
	return ((struct shim_file *)(void *)f)->real;
}

static bool shim_is_log(const char *name)
{
	size_t n = name == NULL ? 0 : strlen(name);

	return n > 4 && strcmp(name + n - 4, "-wal") == 0;
}

static bool shim_is_database(const char *name)
{
	size_t n = name == NULL ? 0 : strlen(name);

	return n > 3 && strcmp(name + n - 3, ".db") == 0;
}

static void shim_remember(const char *name)
{
	struct buf *b = &shim_synced[shim_is_log(name)];
	char part[4096];
	ssize_t n;
	int fd;

	if (!shim_is_log(name) && !shim_is_database(name))
		return;
	b->n = 0;
	fd = open(name, O_RDONLY);
	if (fd < 0)
		return;
	while ((n = read(fd, part, sizeof part)) > 0)
		buf_add(b, part, (size_t)n);
	close(fd);
}

static int shim_close(sqlite3_file *f)
{
	sqlite3_file *real = shim_real(f);
	int rc = real->pMethods->xClose(real);

	sqlite3_free(real);
	return rc;
}

static int shim_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at)
{
	return shim_hits(SHIM_READ) ? SQLITE_IOERR_READ : shim_real(f)->pMethods->xRead(shim_real(f), p, n, at);
}

/* What fails has written its first half. */
static int shim_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at)
{
	bool fails = shim_hits(SHIM_WRITE);
	int rc;

	if (shim.dead)
		return SQLITE_IOERR_WRITE;
	if (shim.log_room > 0 && at + n > shim.log_room && shim_is_log(((struct shim_file *)(void *)f)->name))
		return SQLITE_FULL;
	rc = shim_real(f)->pMethods->xWrite(shim_real(f), p, fails ? n / 2 : n, at);
	return fails ? (shim.full ? SQLITE_FULL : SQLITE_IOERR_WRITE) : rc;
}

static int shim_truncate(sqlite3_file *f, sqlite3_int64 n)
{
	if (shim_hits(SHIM_TRUNCATE) || shim.dead)
		return SQLITE_IOERR_TRUNCATE;
	return shim_real(f)->pMethods->xTruncate(shim_real(f), n);
}

static int shim_sync(sqlite3_file *f, int flags)
{
	const char *name = ((struct shim_file *)(void *)f)->name;

	(void)flags;
	if (shim_hits(SHIM_SYNC) || shim.dead)
		return SQLITE_IOERR_FSYNC;
	shim.log_syncs += shim_is_log(name);
	shim_remember(name);
	return SQLITE_OK;
}

static int shim_size(sqlite3_file *f, sqlite3_int64 *ret)
{
	return shim_real(f)->pMethods->xFileSize(shim_real(f), ret);
}

static int shim_lock(sqlite3_file *f, int level)
{
	return shim_hits(SHIM_LOCK) ? SQLITE_IOERR_LOCK : shim_real(f)->pMethods->xLock(shim_real(f), level);
}

static int shim_unlock(sqlite3_file *f, int level)
{
	return shim_real(f)->pMethods->xUnlock(shim_real(f), level);
}

static int shim_check_lock(sqlite3_file *f, int *ret)
{
	return shim_real(f)->pMethods->xCheckReservedLock(shim_real(f), ret);
}

static int shim_control(sqlite3_file *f, int op, void *arg)
{
	return shim_real(f)->pMethods->xFileControl(shim_real(f), op, arg);
}

static int shim_sector(sqlite3_file *f)
{
	return shim_real(f)->pMethods->xSectorSize(shim_real(f));
}

static int shim_traits(sqlite3_file *f)
{
	return shim_real(f)->pMethods->xDeviceCharacteristics(shim_real(f));
}

static int shim_shared_map(sqlite3_file *f, int page, int size, int extend, void volatile **ret)
{
	if (shim_hits(SHIM_SHARED))
		return SQLITE_IOERR_SHMMAP;
	return shim_real(f)->pMethods->xShmMap(shim_real(f), page, size, extend, ret);
}

static int shim_shared_lock(sqlite3_file *f, int at, int n, int flags)
{
	if ((flags & SQLITE_SHM_UNLOCK) == 0 && shim_hits(SHIM_SHARED))
		return SQLITE_IOERR_SHMLOCK;
	return shim_real(f)->pMethods->xShmLock(shim_real(f), at, n, flags);
}

static void shim_shared_barrier(sqlite3_file *f)
{
	shim_real(f)->pMethods->xShmBarrier(shim_real(f));
}

static int shim_shared_unmap(sqlite3_file *f, int delete)
{
	return shim_real(f)->pMethods->xShmUnmap(shim_real(f), delete);
}

static const sqlite3_io_methods shim_methods = {
	2, shim_close, shim_read, shim_write, shim_truncate, shim_sync, shim_size, shim_lock, shim_unlock,
	shim_check_lock, shim_control, shim_sector, shim_traits, shim_shared_map, shim_shared_lock,
	shim_shared_barrier, shim_shared_unmap, NULL, NULL,
};

static sqlite3_vfs *shim_below;

static int shim_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *ret_flags)
{
	struct shim_file *file = (struct shim_file *)(void *)f;
	int rc;

	(void)vfs;
	*file = (struct shim_file){.name = name};
	if (shim_hits(SHIM_OPEN) || shim.dead)
		return SQLITE_CANTOPEN;
	file->real = sqlite3_malloc(shim_below->szOsFile);
	if (file->real == NULL)
		return SQLITE_NOMEM;
	rc = shim_below->xOpen(shim_below, name, file->real, flags, ret_flags);
	if (rc != SQLITE_OK) {
		sqlite3_free(file->real);
		return rc;
	}
	file->base.pMethods = &shim_methods;
	if (shim_is_database(name))
		shim_remember(name);
	return SQLITE_OK;
}

static int shim_delete(sqlite3_vfs *vfs, const char *name, int sync)
{
	(void)vfs;
	if (shim_hits(SHIM_DELETE) || shim.dead)
		return SQLITE_IOERR_DELETE;
	return shim_below->xDelete(shim_below, name, sync);
}

static sqlite3_mem_methods shim_memory;

static void *shim_malloc(int n)
{
	return shim_hits(SHIM_ALLOC) ? NULL : shim_memory.xMalloc(n);
}

static void *shim_realloc(void *p, int n)
{
	return shim_hits(SHIM_ALLOC) ? NULL : shim_memory.xRealloc(p, n);
}

static void shim_install(void)
{
	static sqlite3_vfs vfs;
	sqlite3_mem_methods memory;

	assert_int_equal(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &shim_memory), SQLITE_OK);
	memory = shim_memory;
	memory.xMalloc = shim_malloc;
	memory.xRealloc = shim_realloc;
	assert_int_equal(sqlite3_config(SQLITE_CONFIG_MALLOC, &memory), SQLITE_OK);
	shim_below = sqlite3_vfs_find(NULL);
	vfs = *shim_below;
	vfs.zName = "shim";
	vfs.szOsFile = sizeof(struct shim_file);
	vfs.xOpen = shim_open;
	vfs.xDelete = shim_delete;
	assert_int_equal(sqlite3_vfs_register(&vfs, 1), SQLITE_OK);
}
