/* Every call of ccd.h and its errors against a running node: calls RUN ETC DAEMON-PID FOLDER. Run under valgrind. */
#define _XOPEN_SOURCE 700
#include "expect.h"
#include "watch.h"

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A number of no handle and an address of nothing. The type is whatever is wanted. */
#define WILD(number) ((void *)(uintptr_t)(number))

static const char *const COLUMNS[] = {"name", "address"};
/* The text of a transaction with its length. */
#define TRANSACTION(text) (text), (sizeof(text) - 1)

static const char *in_folder(const char *folder, const char *name)
{
    static char path[4096];
    snprintf(path, sizeof(path), "%s/%s", folder, name);
    return path;
}

static void write_file(const char *path, const char *content)
{
    FILE *file = fopen(path, "w");
    CHECK(file != NULL);
    CHECK(fputs(content, file) >= 0 && fclose(file) == 0);
}

static size_t count_rows(ccd_t *ccd, const char *key)
{
    ccd_rows_t *rows;
    ccd_row_t row;
    size_t count = 0;
    EXPECT(CCD_OK, ccd_query(ccd, key, NULL, NULL, 0, &rows));
    while (ccd_query_next(rows, &row) == CCD_OK)
        count++;
    EXPECT(CCD_OK, ccd_free(rows));
    return count;
}

/* The only row that a query finds has this first value. */
static void finds(ccd_t *ccd, const char *const *columns, const char *const *patterns, size_t count, const char *name)
{
    ccd_rows_t *rows;
    ccd_row_t row;
    EXPECT(CCD_OK, ccd_query(ccd, "HOST", columns, patterns, count, &rows));
    EXPECT(CCD_OK, ccd_query_next(rows, &row));
    CHECK(row.columns == 2 && strcmp(row.values[0], name) == 0 && row.lengths[0] == strlen(name));
    EXPECT(CCD_END, ccd_query_next(rows, &row));
    EXPECT(CCD_END, ccd_query_next(rows, &row));
    EXPECT(CCD_OK, ccd_free(rows));
}

static void init_database(const char *etc, const char *folder)
{
    const char *number[] = {"1"};
    const char *named[] = {"name"};
    const char *name[] = {"b?ta"};
    ccd_static_t *init;
    ccd_rows_t *rows;
    ccd_row_t row;

    EXPECT(CCD_OK, ccd_attach_static(etc, &init));
    EXPECT(CCD_OK, ccd_query_static(init, "NODE", NULL, number, 1, &rows));
    EXPECT(CCD_OK, ccd_query_next(rows, &row));
    CHECK(row.columns == 3 && strcmp(row.values[1], "beta") == 0 && strlen(row.values[2]) == 16);
    EXPECT(CCD_OK, ccd_free(rows));
    EXPECT(CCD_OK, ccd_wildchar_static(init, '?'));
    EXPECT(CCD_OK, ccd_query_static(init, "NODE", named, name, 1, &rows));
    EXPECT(CCD_OK, ccd_query_next(rows, &row));
    EXPECT(CCD_END, ccd_query_next(rows, &row));
    EXPECT(CCD_OK, ccd_free(rows));
    EXPECT(CCD_E_ARGUMENT, ccd_wildchar_static(init, 0xd800));
    EXPECT(CCD_E_NO_KEY, ccd_query_static(init, "NONE", NULL, NULL, 0, &rows));
    CHECK(rows == NULL);
    EXPECT(CCD_E_HANDLE, ccd_query((ccd_t *)init, "NODE", NULL, NULL, 0, &rows));
    EXPECT(CCD_E_HANDLE, ccd_detach((ccd_t *)init));
    EXPECT(CCD_OK, ccd_detach_static(init));
    EXPECT(CCD_E_HANDLE, ccd_detach_static(init));
    EXPECT(CCD_E_HANDLE, ccd_query_static(init, "NODE", NULL, NULL, 0, &rows));
    EXPECT(CCD_E_HANDLE, ccd_wildchar_static(init, '*'));

    EXPECT(CCD_E_ARGUMENT, ccd_attach_static(etc, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_attach_static("", &init));
    EXPECT(CCD_E_NO_FILE, ccd_attach_static("/nowhere", &init));
    CHECK(init == NULL);
    write_file(in_folder(folder, "init.ccd"), "CLUSTER:test\n");
    EXPECT(CCD_E_INIT, ccd_attach_static(folder, &init));
    write_file(in_folder(folder, "init.ccd"), "\xff\xfe");
    EXPECT(CCD_E_NOT_UTF8, ccd_attach_static(folder, &init));
    CHECK(truncate(in_folder(folder, "init.ccd"), 64 << 20) == 0);
    EXPECT(CCD_E_FILE_TOO_LARGE, ccd_attach_static(folder, &init));
    CHECK(unlink(in_folder(folder, "init.ccd")) == 0 && mkdir(in_folder(folder, "init.ccd"), 0700) == 0);
    EXPECT(CCD_E_FILE_IO, ccd_attach_static(folder, &init));
    CHECK(rmdir(in_folder(folder, "init.ccd")) == 0);
}

static void rows_and_formats(ccd_t *ccd)
{
    const char *web1[] = {"web1", "fd00::1 100%"};
    const char *web2[] = {"web2", "*"};
    const char *anything_and_star[] = {NULL, "*"};
    const char *percent[] = {NULL, "fd%"};
    const char *by_name[] = {"address"};
    const char *ipv6[] = {"fd00*"};
    const char *none[] = {"db*"};
    const char *no_such_column[] = {"colour"};
    const char *three[] = {"a", "b", "c"};
    int64_t removed = -7;
    ccd_rows_t *rows;

    EXPECT(CCD_E_NO_KEY, ccd_query(ccd, "HOST", NULL, NULL, 0, &rows));
    CHECK(rows == NULL && strstr(ccd_error_detail(), "HOST") != NULL);
    CHECK(strncmp(ccd_error_detail(), "CCD-1210: ccd_query: ", 21) == 0);
    EXPECT(CCD_E_NO_KEY, ccd_add_unique(ccd, "HOST", web1, 2));
    EXPECT(CCD_OK, ccd_format(ccd, "HOST", COLUMNS, 2));
    EXPECT(CCD_OK, ccd_format(ccd, "HOST", COLUMNS, 2));
    EXPECT(CCD_E_EXISTS, ccd_format(ccd, "HOST", COLUMNS, 1));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "HOST", web1, 2));
    EXPECT(CCD_E_EXISTS, ccd_add_unique(ccd, "HOST", web1, 2));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "HOST", web2, 2));
    EXPECT(CCD_E_UPDATE, ccd_add_unique(ccd, "HOST", three, 3));

    /* By position and by name, with each wildcard and with none. */
    finds(ccd, NULL, web1, 1, "web1");
    finds(ccd, by_name, ipv6, 1, "web1");
    CHECK(count_rows(ccd, "HOST") == 2);
    EXPECT(CCD_OK, ccd_wildchar(ccd, '%'));
    finds(ccd, NULL, anything_and_star, 2, "web2");
    finds(ccd, NULL, percent, 2, "web1");
    EXPECT(CCD_OK, ccd_wildchar(ccd, 0));
    finds(ccd, COLUMNS, anything_and_star, 2, "web2");
    EXPECT(CCD_E_ARGUMENT, ccd_wildchar(ccd, 0x110000));
    EXPECT(CCD_OK, ccd_wildchar(ccd, '*'));
    EXPECT(CCD_E_COLUMN, ccd_query(ccd, "HOST", no_such_column, ipv6, 1, &rows));
    EXPECT(CCD_E_UPDATE, ccd_query(ccd, "HOST", NULL, three, 3, &rows));
    EXPECT(CCD_OK, ccd_query(ccd, "HOST", NULL, none, 1, &rows));
    EXPECT(CCD_OK, ccd_free(rows));

    EXPECT(CCD_E_NO_ROW, ccd_remove(ccd, "HOST", NULL, none, 1, &removed));
    CHECK(removed == -7);
    EXPECT(CCD_E_KEY_NOT_EMPTY, ccd_remove_fmt(ccd, "HOST"));
    EXPECT(CCD_OK, ccd_remove(ccd, "HOST", by_name, ipv6, 1, &removed));
    CHECK(removed == 1);
    EXPECT(CCD_OK, ccd_remove(ccd, "HOST", NULL, NULL, 0, NULL));
    EXPECT(CCD_OK, ccd_remove_fmt(ccd, "HOST"));
    EXPECT(CCD_E_NO_KEY, ccd_remove_fmt(ccd, "HOST"));
}

static void transactions(ccd_t *ccd)
{
    static const char add[] = "if row absent HOST:a:1\nadd HOST:a:1\nadd HOST:b:nul%00inside\n";
    char request[CCD_REQUEST_BYTES] = "";
    char other[CCD_REQUEST_BYTES] = "";
    char no_request[CCD_REQUEST_BYTES] = "nonsense";
    const char *b[] = {"b"};
    ccd_applied_t applied, again;
    ccd_rows_t *rows;
    ccd_row_t row;

    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION("format HOST:name:address\n"), 0, "a reason", NULL, NULL));
    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION(add), CCD_DRY_RUN, NULL, NULL, &applied));
    CHECK(applied.generation == 0 && applied.removed == 0 && count_rows(ccd, "HOST") == 0);
    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION(add), 0, NULL, request, &applied));
    CHECK(applied.generation > 0 && applied.removed == 0 && strlen(request) > 32);
    /* The same request is the same transaction; another one is not. */
    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION(add), 0, NULL, request, &again));
    CHECK(again.generation == applied.generation && again.removed == -1);
    EXPECT(CCD_E_PRECONDITION, ccd_transact(ccd, TRANSACTION(add), 0, NULL, other, NULL));
    CHECK(strcmp(request, other) != 0 && count_rows(ccd, "HOST") == 2);

    /* A value may have a NUL in it. */
    EXPECT(CCD_OK, ccd_query(ccd, "HOST", NULL, b, 1, &rows));
    EXPECT(CCD_OK, ccd_query_next(rows, &row));
    CHECK(row.lengths[1] == 10 && memcmp(row.values[1], "nul\0inside", 11) == 0);
    EXPECT(CCD_OK, ccd_free(rows));

    EXPECT(CCD_E_TRANSACTION, ccd_transact(ccd, TRANSACTION("frobnicate\n"), 0, NULL, NULL, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, TRANSACTION(add), 8, NULL, NULL, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, NULL, 3, 0, NULL, NULL, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, add, SIZE_MAX, 0, NULL, NULL, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, TRANSACTION(add), 0, NULL, no_request, NULL));
    memset(no_request, 'a', sizeof(no_request));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, TRANSACTION(add), 0, NULL, no_request, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_transact(ccd, TRANSACTION(add), 0, NULL, NULL, WILD(12)));
}

static void restores(ccd_t *ccd, const char *folder)
{
    /* Written by ccdadm checkpoint before this program began: HOST with one row, and OTHER. */
    char saved[4096];
    snprintf(saved, sizeof(saved), "%s", in_folder(folder, "saved.ccd"));
    CHECK(count_rows(ccd, "HOST") == 2);
    EXPECT(CCD_OK, ccd_restore(ccd, "HOST", saved));
    CHECK(count_rows(ccd, "HOST") == 1);
    EXPECT(CCD_E_NO_KEY, ccd_restore(ccd, "ELSE", saved));
    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION("format GONE:x\nadd GONE:1\n"), 0, NULL, NULL, NULL));
    EXPECT(CCD_OK, ccd_restore(ccd, NULL, saved));
    EXPECT(CCD_E_NO_KEY, ccd_remove_fmt(ccd, "GONE"));

    EXPECT(CCD_E_ARGUMENT, ccd_restore(ccd, NULL, NULL));
    EXPECT(CCD_E_NO_FILE, ccd_restore(ccd, NULL, "/nowhere/at.all"));
    EXPECT(CCD_E_FILE_IO, ccd_restore(ccd, NULL, folder));
    write_file(in_folder(folder, "bad.ccd"), "HOST_fmt:name\nHOST:a:b\n");
    EXPECT(CCD_E_TEXT, ccd_restore(ccd, NULL, in_folder(folder, "bad.ccd")));
    write_file(in_folder(folder, "bad.ccd"), "HOST_fmt:name\nHOST:a\n");
    EXPECT(CCD_E_RECORD_MISSING, ccd_restore(ccd, "HOST", in_folder(folder, "bad.ccd")));
    write_file(in_folder(folder, "bad.ccd"), "HOST_fmt:name\nHOST:a\nCCD_CHK:Apr 16 09h49m47 1997:1:7:4:0:7\n");
    EXPECT(CCD_E_TEXT_DAMAGED, ccd_restore(ccd, NULL, in_folder(folder, "bad.ccd")));
}

static void wrong_arguments(ccd_t *ccd)
{
    static char endless[3 * CCD_TEXT_MAX];
    const char *a_null[] = {"a", NULL};
    const char *an_endless[] = {endless};
    const char *not_utf8[] = {"\xc3("};
    static char long_text[1100];
    const char *too_long[] = {long_text};
    const char *many[CCD_COLUMNS_MAX + 1];
    ccd_rows_t *rows;
    ccd_t *handle;

    memset(endless, 'a', sizeof(endless));
    memset(long_text, 'a', sizeof(long_text) - 1);
    for (size_t i = 0; i < COUNT(many); i++)
        many[i] = "x";

    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, NULL, NULL, NULL, 0, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, endless, NULL, NULL, 0, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, WILD(8), NULL, NULL, 0, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", NULL, NULL, 0, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", NULL, NULL, 0, WILD(0x10001)));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", NULL, NULL, 1, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", NULL, many, COUNT(many), &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", NULL, WILD(0x10001), SIZE_MAX, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query(ccd, "HOST", a_null, a_null, 2, &rows));
    EXPECT(CCD_E_KEY, ccd_query(ccd, "9", NULL, NULL, 0, &rows));
    EXPECT(CCD_E_KEY, ccd_query(ccd, "", NULL, NULL, 0, &rows));
    EXPECT(CCD_E_NOT_UTF8, ccd_query(ccd, "HOST", NULL, not_utf8, 1, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_add_unique(ccd, "HOST", a_null, 2));
    CHECK(strstr(ccd_error_detail(), "values[1] is null") != NULL);
    EXPECT(CCD_E_ARGUMENT, ccd_add_unique(ccd, "HOST", an_endless, 1));
    EXPECT(CCD_E_ARGUMENT, ccd_add_unique(ccd, "HOST", many, COUNT(many)));
    EXPECT(CCD_E_UPDATE, ccd_add_unique(ccd, "HOST", NULL, 0));
    EXPECT(CCD_E_ROW, ccd_add_unique(ccd, "HOST", too_long, 1));
    EXPECT(CCD_E_KEY, ccd_add_unique(ccd, "CCD_CHK", many, 1));
    EXPECT(CCD_E_NOT_UTF8, ccd_add_unique(ccd, "HOST", not_utf8, 1));
    EXPECT(CCD_E_UPDATE, ccd_format(ccd, "NEW", many, 2));
    EXPECT(CCD_E_ARGUMENT, ccd_remove(ccd, "HOST", NULL, NULL, 2, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_remove(ccd, "HOST", NULL, NULL, 0, WILD(3)));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, CCD_TIMEOUT_MS, 0, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, CCD_TIMEOUT_MS, 86400001, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, CCD_RETRY, 2, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, 0, 1, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, 99, 1, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_attach(NULL, NULL, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_attach(endless, NULL, &handle));
    EXPECT(CCD_E_ARGUMENT, ccd_attach(NULL, endless, &handle));
    CHECK(handle == NULL);
}

static void handles(ccd_t *ccd, const char *run)
{
    ccd_t *gone;
    ccd_rows_t *rows;
    ccd_row_t row;
    ccd_t *wrong[] = {NULL, WILD(1), WILD(0x1000), WILD(UINTPTR_MAX), (ccd_t *)&row, NULL};

    EXPECT(CCD_OK, ccd_attach(run, NULL, &gone));
    EXPECT(CCD_OK, ccd_detach(gone));
    wrong[5] = gone;
    for (size_t i = 0; i < COUNT(wrong); i++) {
        EXPECT(CCD_E_HANDLE, ccd_detach(wrong[i]));
        EXPECT(CCD_E_HANDLE, ccd_control(wrong[i], CCD_RETRY, 1, NULL));
        EXPECT(CCD_E_HANDLE, ccd_wildchar(wrong[i], '*'));
        EXPECT(CCD_E_HANDLE, ccd_query(wrong[i], "HOST", NULL, NULL, 0, &rows));
        EXPECT(CCD_E_HANDLE, ccd_add_unique(wrong[i], "HOST", COLUMNS, 2));
        EXPECT(CCD_E_HANDLE, ccd_remove(wrong[i], "HOST", NULL, NULL, 0, NULL));
        EXPECT(CCD_E_HANDLE, ccd_format(wrong[i], "HOST", COLUMNS, 2));
        EXPECT(CCD_E_HANDLE, ccd_remove_fmt(wrong[i], "HOST"));
        EXPECT(CCD_E_HANDLE, ccd_restore(wrong[i], NULL, "/nowhere"));
        EXPECT(CCD_E_HANDLE, ccd_transact(wrong[i], TRANSACTION("add HOST:a:b"), 0, NULL, NULL, NULL));
        EXPECT(CCD_E_HANDLE, ccd_query_next((ccd_rows_t *)wrong[i], &row));
    }
    EXPECT(CCD_OK, ccd_free(NULL));
    EXPECT(CCD_E_HANDLE, ccd_free((ccd_rows_t *)ccd));
    EXPECT(CCD_OK, ccd_query(ccd, "HOST", NULL, NULL, 0, &rows));
    EXPECT(CCD_E_ARGUMENT, ccd_query_next(rows, NULL));
    EXPECT(CCD_E_HANDLE, ccd_detach((ccd_t *)rows));
    EXPECT(CCD_OK, ccd_free(rows));
    EXPECT(CCD_E_HANDLE, ccd_free(rows));
    EXPECT(CCD_E_HANDLE, ccd_query_next(rows, &row));
    EXPECT(CCD_E_NO_DAEMON, ccd_attach("/nowhere", NULL, &gone));
    CHECK(gone == NULL && ccd_retry_error(CCD_E_NO_DAEMON) == 1);
}

/* A child has no handle of its parent, and may attach anew; and so may another user, who may do less. */
static void forked(ccd_t *ccd, const char *run, const char *folder)
{
    ccd_t *own;
    int status;
    CHECK(mkdir(in_folder(folder, "closed"), 0700) == 0);
    pid_t child = fork();
    CHECK(child >= 0);
    if (child == 0) {
        EXPECT(CCD_E_HANDLE, ccd_remove_fmt(ccd, "HOST"));
        EXPECT(CCD_E_HANDLE, ccd_detach(ccd));
        EXPECT(CCD_OK, ccd_attach(run, "child", &own));
        CHECK(own != ccd && count_rows(own, "HOST") == 1);
        CHECK(setgid(65534) == 0 && setuid(65534) == 0);
        /* The connection is the one that root made; new ones are another user's. */
        EXPECT(CCD_OK, ccd_detach(own));
        EXPECT(CCD_E_SOCKET_PERMISSION, ccd_attach(run, NULL, &own));
        CHECK(ccd_retry_error(CCD_E_SOCKET_PERMISSION) == 0);
        ccd_static_t *init;
        EXPECT(CCD_E_FILE_PERMISSION, ccd_attach_static(in_folder(folder, "closed"), &init));
        exit(0);
    }
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(count_rows(ccd, "HOST") == 1);
}

static long elapsed_ms(struct timespec since)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (now.tv_sec - since.tv_sec) * 1000 + (now.tv_nsec - since.tv_nsec) / 1000000;
}

static void on_signal(int number)
{
    (void)number;
}

/* Every so often a signal interrupts whatever the program waits for; 0: no more. */
static void interrupt_every_ms(long ms)
{
    struct sigaction action = {.sa_handler = on_signal};
    struct itimerval timer = {{ms / 1000, ms % 1000 * 1000}, {ms / 1000, ms % 1000 * 1000}};
    CHECK(sigaction(SIGALRM, &action, NULL) == 0 && setitimer(ITIMER_REAL, &timer, NULL) == 0);
}

/* A daemon that stands still: everything ends in time, and what is unknown can be asked for again. */
static void stopped(ccd_t *ccd, pid_t daemon)
{
    char request[CCD_REQUEST_BYTES] = "";
    ccd_applied_t applied;
    ccd_rows_t *rows;
    struct timespec start;

    EXPECT(CCD_OK, ccd_control(ccd, CCD_TIMEOUT_MS, 200, NULL));
    CHECK(kill(daemon, SIGSTOP) == 0);
    interrupt_every_ms(20);
    clock_gettime(CLOCK_MONOTONIC, &start);
    EXPECT(CCD_E_UNKNOWN, ccd_transact(ccd, TRANSACTION("add HOST:late:x"), 0, NULL, request, NULL));
    /* The daemon may have that one. These it cannot have: nobody takes the connection. */
    EXPECT(CCD_E_DAEMON_TIMED_OUT, ccd_transact(ccd, TRANSACTION("add HOST:never:x"), 0, NULL, NULL, NULL));
    EXPECT(CCD_E_DAEMON_TIMED_OUT, ccd_query(ccd, "HOST", NULL, NULL, 0, &rows));
    CHECK(elapsed_ms(start) < 10000);
    CHECK(ccd_retry_error(CCD_E_UNKNOWN) == 0);
    CHECK(kill(daemon, SIGCONT) == 0);
    EXPECT(CCD_OK, ccd_control(ccd, CCD_TIMEOUT_MS, 20000, NULL));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_RETRY, 1, NULL));
    EXPECT(CCD_OK, ccd_transact(ccd, TRANSACTION("add HOST:late:x"), 0, NULL, request, &applied));
    CHECK(count_rows(ccd, "HOST") == 2);
    EXPECT(CCD_OK, ccd_control(ccd, CCD_RETRY, 0, NULL));
    interrupt_every_ms(0);
}

/* A key whose synchronization command is not there: nobody agrees, unless nobody is asked. */
static void synchronization(ccd_t *ccd)
{
    static const char *const columns[] = {"key", "command"};
    static const char *const wanted[] = {"HOST", "no-such-command"};
    static const char *const path[] = {"HOST", "/bin/true"};
    static const char *const row[] = {"synchronized", "x"};

    EXPECT(CCD_OK, ccd_format(ccd, "CCD_SYNC", columns, 2));
    EXPECT(CCD_E_UPDATE, ccd_add_unique(ccd, "CCD_SYNC", path, 2));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "CCD_SYNC", wanted, 2));
    EXPECT(CCD_E_VETOED, ccd_add_unique(ccd, "HOST", row, 2));
    CHECK(strstr(ccd_error_detail(), "no-such-command") != NULL);
    EXPECT(CCD_OK, ccd_control(ccd, CCD_NO_SYNC, 1, NULL));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "HOST", row, 2));
    EXPECT(CCD_OK, ccd_remove(ccd, "HOST", NULL, row, 2, NULL));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_NO_SYNC, 0, NULL));
    EXPECT(CCD_E_VETOED, ccd_transact(ccd, TRANSACTION("add HOST:synchronized:x"), 0, NULL, NULL, NULL));
    EXPECT(CCD_OK, ccd_remove(ccd, "CCD_SYNC", NULL, NULL, 0, NULL));
    EXPECT(CCD_OK, ccd_remove_fmt(ccd, "CCD_SYNC"));
}

static void options(ccd_t *ccd)
{
    EXPECT(CCD_OK, ccd_control(ccd, CCD_STALE, 1, NULL));
    CHECK(count_rows(ccd, "HOST") == 2);
    EXPECT(CCD_OK, ccd_control(ccd, CCD_STALE, 0, NULL));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_NO_WAIT, 1, NULL));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_NO_WAIT, 0, NULL));
    EXPECT(CCD_E_CLUSTER_NAME, ccd_control(ccd, CCD_QUORUM, 0, NULL));
    EXPECT(CCD_E_CLUSTER_NAME, ccd_control(ccd, CCD_QUORUM, 0, "other"));
    EXPECT(CCD_E_CLUSTER_NAME, ccd_control(ccd, CCD_QUORUM, 1, "other"));
    EXPECT(CCD_E_ARGUMENT, ccd_control(ccd, CCD_QUORUM, 2, "test"));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_QUORUM, 0, "test"));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_QUORUM, 1, NULL));
}

static void texts(void)
{
    CHECK(strcmp(ccd_version(), CCD_VERSION) == 0);
    CHECK(strcmp(ccd_perror(CCD_OK), "done") == 0);
    CHECK(strncmp(ccd_perror(CCD_E_NO_KEY), "CCD-1210: ", 10) == 0);
    CHECK(ccd_perror(-1) != NULL && ccd_retry_error(-1) == 0);
}

/* One thread detaches while others ask: they finish, or hear that the handle is gone. */
static void *asks_until_gone(void *argument)
{
    ccd_rows_t *rows;
    int code;
    while ((code = ccd_query(argument, "HOST", NULL, NULL, 0, &rows)) == CCD_OK)
        EXPECT(CCD_OK, ccd_free(rows));
    EXPECT(CCD_E_HANDLE, code);
    CHECK(strstr(ccd_error_detail(), "ccd_query") != NULL);
    return NULL;
}

static void detached_by_another(const char *run)
{
    pthread_t threads[4];
    ccd_t *ccd;
    EXPECT(CCD_OK, ccd_attach(run, NULL, &ccd));
    for (size_t i = 0; i < COUNT(threads); i++)
        CHECK(pthread_create(&threads[i], NULL, asks_until_gone, ccd) == 0);
    CHECK(count_rows(ccd, "HOST") == 2);
    EXPECT(CCD_OK, ccd_detach(ccd));
    for (size_t i = 0; i < COUNT(threads); i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(int argc, char **argv)
{
    ccd_t *ccd;
    CHECK(argc == 5);
    const char *run = argv[1], *etc = argv[2], *folder = argv[4];
    pid_t daemon = (pid_t)atol(argv[3]);

    texts();
    CHECK(strcmp(ccd_error_detail(), "") == 0);
    init_database(etc, folder);
    EXPECT(CCD_OK, ccd_attach(run, "calls", &ccd));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_TIMEOUT_MS, 20000, NULL));
    rows_and_formats(ccd);
    transactions(ccd);
    restores(ccd, folder);
    wrong_arguments(ccd);
    handles(ccd, run);
    forked(ccd, run, folder);
    stopped(ccd, daemon);
    options(ccd);
    synchronization(ccd);
    watches(ccd);
    detached_by_another(run);
    EXPECT(CCD_OK, ccd_detach(ccd));
    puts("every call ended as expected");
    return 0;
}
