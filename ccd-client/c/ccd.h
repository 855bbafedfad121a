/*
 * CCDLIB: the library of ccd, a highly-available cluster configuration database.
 *
 *     cc program.c $(pkg-config --cflags --libs ccd)
 *
 * Every call returns CCD_OK, or a code that says why it was not done: ccd_perror() explains it, ccd_error_detail() says on
 * what. Every call may be made from any thread, on the same handle from several at once. All texts are UTF-8. A handle is a
 * number and no address: one that was given back, or that never was one, is CCD_E_HANDLE. After a fork the child attaches
 * anew. The manual pages, from ccd(3) on, say the rest.
 *
 * SPDX-License-Identifier: Apache-2.0 OR MIT
 */
#ifndef CCD_H
#define CCD_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* The release that this header is of; ccd_version() is that of the library in use. */
#define CCD_VERSION "0.1.0"
/* The interface that it describes, which is the number in libccd.so.0. Programs go on working while it stays the same. */
#define CCD_INTERFACE 0

/* What a handle stands for. */
typedef struct ccd ccd_t;               /* attached to the daemon of this machine */
typedef struct ccd_static ccd_static_t; /* the init database, as it was when it was attached */
typedef struct ccd_rows ccd_rows_t;     /* what a query found */
typedef struct ccd_watch ccd_watch_t;   /* every change from some moment on */

/* One row. It and what it points at stay until ccd_free() of the rows that it is of. */
typedef struct ccd_row {
    size_t columns;            /* how many values */
    const char *const *values; /* each ends with a NUL, and may have others in it */
    const size_t *lengths;     /* bytes of each, without the NUL at its end */
} ccd_row_t;

/* What a transaction did. */
typedef struct ccd_applied {
    uint64_t generation; /* the database holds it since then; 0 for a dry run */
    int64_t removed;     /* how many rows it removed; -1: not known, for the daemon was lost in between */
} ccd_applied_t;

/* What to watch: the rows of a key that match, as in ccd_query(). */
typedef struct ccd_match {
    const char *key;
    const char *const *columns;
    const char *const *patterns;
    size_t count;
} ccd_match_t;

/* One thing that an update did to what is watched, or a row or key that is there at the start. */
typedef struct ccd_effect {
    int kind; /* CCD_EFFECT_ADDED and so on */
    const char *key;
    ccd_row_t row; /* the row, or the columns of the format; nothing with CCD_EFFECT_MANY */
} ccd_effect_t;

/* What comes of a watch. It and what it points at stay until ccd_watch_free(). What does not belong to its kind is 0, NULL, or
 * -1 for the node. */
typedef struct ccd_news {
    int kind;                    /* CCD_NEWS_BEGAN and so on */
    int node;                    /* of a change: the node whose client made it; -1: not known */
    uint64_t generation;         /* of the change; or everything up to it has been told */
    uint64_t after;              /* what is missed or void begins behind this generation */
    uint64_t epoch;              /* of a change */
    int64_t date_ms;             /* of a change: milliseconds since 1970, by the clock of its node */
    uint32_t uid, pid;           /* of a change: who made it */
    const char *program;         /* of a change: what made it */
    const char *reason;          /* of a change: why, if it was said */
    const char *why;             /* why the daemon is away */
    const char *place;           /* what another watch takes as from, to go on behind this */
    const ccd_effect_t *effects; /* of a change, or rows of the start */
    size_t count;                /* how many */
    void *held;                  /* the library's */
} ccd_news_t;

/* Most bytes of a key, a column, a value or a pattern; most columns of a row. */
#define CCD_TEXT_MAX 4096
#define CCD_COLUMNS_MAX 32
/* Room for a request id with its NUL. */
#define CCD_REQUEST_BYTES 64

/* Options of ccd_control(). */
#define CCD_TIMEOUT_MS 1 /* how long a call may take: 1 to 86400000; from the start the cluster's request_timeout_ms */
#define CCD_RETRY 2      /* 1: errors that pass are retried until the time-out; 0: returned at once, from the start */
#define CCD_STALE 3      /* 1: queries answer from the local copy, even if it may be old; 0 from the start */
#define CCD_NO_WAIT 4    /* 1: CCD_E_BUSY rather than wait for an update under way; 0 from the start */
#define CCD_QUORUM 5     /* of the cluster: 1: a majority is needed to go on; 0: whoever is left goes on alone */
#define CCD_NO_SYNC 6    /* 1: updates run no synchronization commands; 0 from the start */

/* Flags of ccd_transact(). */
#define CCD_DRY_RUN 1u /* say what would happen, change nothing */

/* Flags of ccd_watch(), and the most keys of one watch. */
#define CCD_WATCH_ROWS 1u /* the rows that there are first, then the changes from there on */
#define CCD_WATCH_MAX 64

/* Kinds of news. */
#define CCD_NEWS_BEGAN 1     /* the first of all */
#define CCD_NEWS_ROWS 2      /* rows of the start (CCD_WATCH_ROWS) */
#define CCD_NEWS_ROWS_ANEW 3 /* the rows that came are void: the daemon was lost, and all come anew */
#define CCD_NEWS_ROWS_END 4  /* that were all rows */
#define CCD_NEWS_CHANGE 5    /* an update */
#define CCD_NEWS_PROGRESS 6  /* nothing else that is watched has happened up to here */
#define CCD_NEWS_MISSED 7    /* what came after `after`, up to here, is not known on this node */
#define CCD_NEWS_DIVERGED 8  /* an operator overruled the votes: what came up to `after` may be of a branch that lost; read anew */
#define CCD_NEWS_AWAY 9      /* the daemon is away or does not serve; what happens meanwhile comes later */
#define CCD_NEWS_BACK 10     /* it is back */

/* Kinds of effects. */
#define CCD_EFFECT_ADDED 1          /* a row that is there now */
#define CCD_EFFECT_REMOVED 2        /* a row that is gone; one that was changed is removed and added */
#define CCD_EFFECT_FORMAT_MADE 3    /* a key that is there now */
#define CCD_EFFECT_FORMAT_REMOVED 4 /* a key that is gone */
#define CCD_EFFECT_FORMAT_CHANGED 5 /* a key that has these columns now */
#define CCD_EFFECT_MANY 6           /* more rows of the key than are kept have changed: read it anew */

/* Codes. Each has the number of its message: 1210 is CCD-1210 in ccd-messages(7) and `ccdadm explain`. A later library may
 * return others; ccd_perror() and ccd_retry_error() of that library know them. */
#define CCD_OK 0
#define CCD_END 1 /* ccd_query_next(): there is no further row; ccd_watch_next(): nothing came within the time */

#define CCD_E_CLUSTER_NAME 1003    /* turning quorum off wants the cluster's name, and this is not it */
#define CCD_E_INTERNAL 1004        /* a bug in the library */
#define CCD_E_NO_FILE 1010         /* there is no such file */
#define CCD_E_FILE_IO 1011         /* a file cannot be read */
#define CCD_E_FILE_PERMISSION 1012 /* a file may not be read */
#define CCD_E_FILE_TOO_LARGE 1016  /* a file is larger than any of its kind */
#define CCD_E_INIT 1020            /* a row of the init database is wrong */
#define CCD_E_TEXT 1030            /* a row of a database file is wrong */
#define CCD_E_TEXT_DAMAGED 1031    /* a database file does not match its consistency record */
#define CCD_E_RECORD_MISSING 1032  /* a database file has no consistency record */
#define CCD_E_NOT_UTF8 1033        /* a text is not UTF-8 */
#define CCD_E_KEY 1034             /* a text cannot be a key */
#define CCD_E_TRANSACTION 1035     /* a line of a transaction is wrong */
#define CCD_E_COLUMN 1036          /* the key has no such column */
#define CCD_E_ROW 1037             /* a row breaks a limit */
#define CCD_E_ARGUMENT 1040        /* an argument that cannot be meant: null, without end, out of range */
#define CCD_E_HANDLE 1041          /* no handle, or not of this kind, or given back, or of the parent process */
#define CCD_E_NO_DAEMON 1101       /* no daemon listens */
#define CCD_E_SOCKET_PERMISSION 1102 /* this user may not use the socket */
#define CCD_E_CONNECTION_LOST 1103 /* the daemon went away before it answered a question */
#define CCD_E_PROTOCOL 1104        /* the daemon is of a release that this library does not understand */
#define CCD_E_DAEMON_TIMED_OUT 1105 /* the daemon did not answer in time; an update was not sent */
#define CCD_E_DAEMON 1106          /* the daemon met an error of its own */
#define CCD_E_OVERLOADED 1107      /* the daemon has too much to do, or is stopping */
#define CCD_E_ANSWER_TOO_LARGE 1108 /* ask for less */
#define CCD_E_PERMISSION 1109      /* this user may not do this */
#define CCD_E_TOO_LARGE 1110       /* a transaction is larger than one can be */
#define CCD_E_TOO_MANY_WATCHERS 1120 /* the node, or this user on it, has as many watchers as there may be */
#define CCD_E_LARGER_THAN_REPLICAS 1150 /* a restore is larger than the database may be (option image_mib) */
#define CCD_E_REQUEST_REUSED 1152  /* another transaction was applied under this request id */
#define CCD_E_FOREIGN_CHECKPOINT 1153 /* another cluster saved the file; ccdadm restore --force takes it */
#define CCD_E_NOT_SERVING 1201     /* the node does not serve now */
#define CCD_E_NO_QUORUM 1202       /* too few nodes are there */
#define CCD_E_BUSY 1203            /* an update is under way (CCD_NO_WAIT) */
#define CCD_E_ROLLED_BACK 1204     /* a node refused or failed; all are back where they were */
#define CCD_E_TIMED_OUT 1205       /* not begun in time */
#define CCD_E_UNKNOWN 1206         /* an update that is done or not: see ccd_transact(3) for asking again */
#define CCD_E_UNSAFE 1207          /* it could lose updates */
#define CCD_E_FULL 1208            /* the database would not fit any more */
#define CCD_E_UNDECIDED 1209       /* it was put to the vote, and the outcome was not known in time */
#define CCD_E_NO_KEY 1210          /* there is no such key */
#define CCD_E_NO_ROW 1211          /* no row matches what is to be removed */
#define CCD_E_EXISTS 1212          /* the row is there already, or the key with other columns */
#define CCD_E_UPDATE 1213          /* it breaks the key's format or a limit */
#define CCD_E_PRECONDITION 1214    /* a precondition does not hold */
#define CCD_E_KEY_NOT_EMPTY 1215   /* the key still has rows */
#define CCD_E_VETOED 1216          /* a synchronization command refused the update: ccd_error_detail() has its words */
#define CCD_E_COMMAND_TIMED_OUT 1217 /* a synchronization command did not end in time */
#define CCD_E_NOT_KEPT 1220        /* the generation to watch from has not been reached */

/* The init database: the static rows, with nothing running. folder: NULL for CCD_ETC or /etc/ccd. */
int ccd_attach_static(const char *folder, ccd_static_t **handle);
int ccd_detach_static(ccd_static_t *handle);
int ccd_query_static(ccd_static_t *handle, const char *key, const char *const *columns, const char *const *patterns,
                     size_t count, ccd_rows_t **rows);
int ccd_wildchar_static(ccd_static_t *handle, uint32_t character);

/* The database. folder: NULL for CCD_RUN or /run/ccd. program: recorded with every update; NULL for the process's name. */
int ccd_attach(const char *folder, const char *program, ccd_t **handle);
int ccd_detach(ccd_t *handle);

/* Sets an option. cluster: the cluster's name, for turning CCD_QUORUM off; else NULL. */
int ccd_control(ccd_t *handle, int option, long value, const char *cluster);

/* The character that matches any run of characters in patterns; from the start '*'; 0: none does. */
int ccd_wildchar(ccd_t *handle, uint32_t character);

/* The rows of a key that match count patterns: of its first columns, or of those that columns names if it is not NULL. A
 * pattern that is NULL, and a column that has none, match anything. Free the rows with ccd_free(). */
int ccd_query(ccd_t *handle, const char *key, const char *const *columns, const char *const *patterns, size_t count,
              ccd_rows_t **rows);
/* The next row, or CCD_END. */
int ccd_query_next(ccd_rows_t *rows, ccd_row_t *row);
/* Frees what a query found. NULL is fine. */
int ccd_free(ccd_rows_t *rows);

/* Adds a row; CCD_E_EXISTS if there is one like it. */
int ccd_add_unique(ccd_t *handle, const char *key, const char *const *values, size_t count);
/* Removes all rows that match, as in ccd_query(): all of the key if count is 0. removed: how many, if not NULL. */
int ccd_remove(ccd_t *handle, const char *key, const char *const *columns, const char *const *patterns, size_t count,
               int64_t *removed);
/* Defines a key by its columns. The same again is no error. */
int ccd_format(ccd_t *handle, const char *key, const char *const *columns, size_t count);
/* Removes a key that has no rows. */
int ccd_remove_fmt(ccd_t *handle, const char *key);
/* Replaces a key, or the whole database if it is NULL, by what a file of `ccdadm checkpoint` or `convert` holds. */
int ccd_restore(ccd_t *handle, const char *key, const char *file);

/* Applies a transaction in the form of `ccdadm apply`, whole or not at all. reason: kept with it, or NULL. request: NULL, or
 * CCD_REQUEST_BYTES that begin with a NUL and then hold the transaction's id, or that hold the id of an earlier call with the
 * same text: then it is applied only if it was not. applied: what it did, if not NULL. */
int ccd_transact(ccd_t *handle, const char *text, size_t length, unsigned int flags, const char *reason, char *request,
                 ccd_applied_t *applied);

/* Watches: every committed change of what matches, once and in order, whatever becomes of the daemon meanwhile. matches: count
 * of them; 0: every key that this user may read. from: NULL: from now; a generation in digits: what came after it; or the place
 * of earlier news. End it with ccd_watch_end(). */
int ccd_watch(ccd_t *handle, const ccd_match_t *matches, size_t count, const char *from, unsigned int flags,
              ccd_watch_t **watch);
/* A descriptor for poll(2): readable when there may be news. Always the same; only for waiting, and not to be closed. */
int ccd_watch_fd(ccd_watch_t *watch, int *descriptor);
/* The next news within timeout_ms (0: what is there now, -1: however long it takes), or CCD_END. Free it with ccd_watch_free(). */
int ccd_watch_next(ccd_watch_t *watch, long timeout_ms, ccd_news_t *news);
/* Frees what news points at, and makes it all zeros. */
int ccd_watch_free(ccd_news_t *news);
/* Ends a watch. News that came of it stay until they are freed. */
int ccd_watch_end(ccd_watch_t *watch);

/* What a code means: cause, effect, what to do. Never NULL; valid for ever. */
const char *ccd_perror(int error);
/* What this thread's last call that failed failed on. Never NULL; valid until the thread's next failure. */
const char *ccd_error_detail(void);
/* 1: the same call may succeed a moment later, and nothing was changed; 0: not. */
int ccd_retry_error(int error);
/* The library's release. */
const char *ccd_version(void);

#ifdef __cplusplus
}
#endif

#endif
