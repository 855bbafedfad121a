/* Threads that share one handle and update without end, while the daemon is killed and started again:
 *
 *     threads RUN THREADS
 *
 * Each counts in a row of its own: "remove n, add n + 1". Done twice, or not at all, the next one would fail. Says "ready" when
 * they begin, ends when standard input does, and prints how far each came. SIGPIPE is left as a C program has it: one would
 * end this program. */
#include "expect.h"

#include <pthread.h>
#include <stdatomic.h>

#define THREADS_MAX 64

static ccd_t *ccd;
static atomic_bool is_over;
static long counts[THREADS_MAX];

static void *counting(void *argument)
{
    long thread = (long)(size_t)argument;
    char text[128], number[24];
    const char *patterns[] = {number};
    ccd_rows_t *rows;
    ccd_row_t row;
    for (long n = 0; !atomic_load(&is_over); n++) {
        int length = snprintf(text, sizeof(text), "remove COUNT:%ld:%ld\nadd COUNT:%ld:%ld\n", thread, n, thread, n + 1);
        EXPECT(CCD_OK, ccd_transact(ccd, text, (size_t)length, 0, NULL, NULL, NULL));
        counts[thread] = n + 1;
        snprintf(number, sizeof(number), "%ld", thread);
        EXPECT(CCD_OK, ccd_query(ccd, "COUNT", NULL, patterns, 1, &rows));
        EXPECT(CCD_OK, ccd_query_next(rows, &row));
        CHECK(atol(row.values[1]) == n + 1);
        EXPECT(CCD_END, ccd_query_next(rows, &row));
        EXPECT(CCD_OK, ccd_free(rows));
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static const char *const columns[] = {"thread", "count"};
    pthread_t threads[THREADS_MAX];
    char number[24];
    const char *zero[] = {number, "0"};

    CHECK(argc == 3);
    long count = atol(argv[2]);
    CHECK(count > 0 && count <= THREADS_MAX);
    EXPECT(CCD_OK, ccd_attach(argv[1], "threads", &ccd));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_TIMEOUT_MS, 40000, NULL));
    EXPECT(CCD_OK, ccd_control(ccd, CCD_RETRY, 1, NULL));
    EXPECT(CCD_OK, ccd_format(ccd, "COUNT", columns, 2));
    for (long i = 0; i < count; i++) {
        snprintf(number, sizeof(number), "%ld", i);
        EXPECT(CCD_OK, ccd_add_unique(ccd, "COUNT", zero, 2));
    }
    for (long i = 0; i < count; i++)
        CHECK(pthread_create(&threads[i], NULL, counting, (void *)(size_t)i) == 0);
    puts("ready");
    fflush(stdout);
    while (getchar() != EOF)
        ;
    atomic_store(&is_over, 1);
    for (long i = 0; i < count; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);
    for (long i = 0; i < count; i++)
        printf("COUNT:%ld:%ld\n", i, counts[i]);
    EXPECT(CCD_OK, ccd_detach(ccd));
    return 0;
}
