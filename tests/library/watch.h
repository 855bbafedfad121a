/* For calls.c: ccd_watch() and its errors. */
#ifndef WATCH_H
#define WATCH_H

#include "expect.h"

#include <poll.h>
#include <pthread.h>

/* The next news of a kind; progress and what is not asked for here is passed over. */
static void await(ccd_watch_t *watch, int kind, ccd_news_t *news)
{
    for (int tries = 0; tries < 200; tries++) {
        int code = ccd_watch_next(watch, 200, news);
        if (code == CCD_END)
            continue;
        EXPECT(CCD_OK, code);
        if (news->kind == kind)
            return;
        CHECK(news->kind != CCD_NEWS_MISSED && news->kind != CCD_NEWS_DIVERGED);
        EXPECT(CCD_OK, ccd_watch_free(news));
    }
    CHECK(!"the news come");
}

static void *waits_until_ended(void *argument)
{
    ccd_news_t news;
    int code;
    while ((code = ccd_watch_next(argument, -1, &news)) == CCD_OK)
        EXPECT(CCD_OK, ccd_watch_free(&news));
    EXPECT(CCD_E_HANDLE, code);
    return NULL;
}

/* HOST has two rows, of which one is named "late". */
static void watches(ccd_t *ccd)
{
    const char *name[] = {"name"}, *pattern[] = {"watched*"}, *values[] = {"watched1", "x"}, *other[] = {"unseen", "x"};
    const char *no_such[] = {"colour"}, *many[] = {"a", "b", "c"};
    ccd_match_t matches[] = {{"HOST", name, pattern, 1}, {"LATER", NULL, NULL, 0}};
    ccd_match_t wrong[CCD_WATCH_MAX + 1] = {{NULL, NULL, NULL, 0}};
    ccd_watch_t *watch, *second;
    ccd_news_t news, kept;
    struct pollfd ready = {.events = POLLIN};
    char place[256], generation[32];
    pthread_t threads[3];
    int64_t removed;

    EXPECT(CCD_OK, ccd_watch(ccd, matches, 2, NULL, 0, &watch));
    EXPECT(CCD_OK, ccd_watch_fd(watch, &ready.fd));
    await(watch, CCD_NEWS_BEGAN, &news);
    snprintf(generation, sizeof(generation), "%llu", (unsigned long long)news.generation);
    CHECK(news.program == NULL && news.effects == NULL && news.count == 0 && news.node == -1);
    EXPECT(CCD_OK, ccd_watch_free(&news));
    EXPECT(CCD_OK, ccd_watch_free(&news));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "HOST", other, 2));
    EXPECT(CCD_OK, ccd_add_unique(ccd, "HOST", values, 2));
    CHECK(poll(&ready, 1, 20000) == 1);
    await(watch, CCD_NEWS_CHANGE, &kept);
    CHECK(kept.count == 1 && kept.effects[0].kind == CCD_EFFECT_ADDED && strcmp(kept.effects[0].key, "HOST") == 0);
    CHECK(kept.effects[0].row.columns == 2 && strcmp(kept.effects[0].row.values[0], "watched1") == 0);
    CHECK(strcmp(kept.program, "calls") == 0 && kept.reason == NULL && kept.pid > 0 && kept.date_ms > 0 && kept.epoch > 0);
    CHECK(kept.node == 0 && kept.generation > 0 && strlen(kept.place) < sizeof(place));
    strcpy(place, kept.place);

    /* From a place, and from a generation: what came after it. */
    EXPECT(CCD_OK, ccd_remove(ccd, "HOST", name, pattern, 1, &removed));
    EXPECT(CCD_OK, ccd_watch(ccd, matches, 2, place, 0, &second));
    await(second, CCD_NEWS_CHANGE, &news);
    CHECK(news.effects[0].kind == CCD_EFFECT_REMOVED && news.generation == kept.generation + 1);
    EXPECT(CCD_OK, ccd_watch_free(&news));
    EXPECT(CCD_OK, ccd_watch_end(second));
    EXPECT(CCD_OK, ccd_watch(ccd, NULL, 0, generation, 0, &second));
    await(second, CCD_NEWS_CHANGE, &news);
    CHECK(news.count == 1 && strcmp(news.effects[0].row.values[0], "unseen") == 0);
    EXPECT(CCD_OK, ccd_watch_end(second));
    CHECK(strcmp(news.effects[0].row.values[0], "unseen") == 0);
    EXPECT(CCD_OK, ccd_watch_free(&news));
    pattern[0] = "unseen";
    EXPECT(CCD_OK, ccd_remove(ccd, "HOST", name, pattern, 1, &removed));
    pattern[0] = "watched*";

    /* The rows that there are, and the key's columns before them. */
    matches[0].count = 0;
    EXPECT(CCD_OK, ccd_watch(ccd, matches, 1, NULL, CCD_WATCH_ROWS, &second));
    await(second, CCD_NEWS_ROWS, &news);
    CHECK(news.count == 3 && news.effects[0].kind == CCD_EFFECT_FORMAT_MADE && news.effects[0].row.columns == 2);
    CHECK(news.effects[1].kind == CCD_EFFECT_ADDED && strcmp(news.effects[1].row.values[0], "late") == 0);
    EXPECT(CCD_OK, ccd_watch_free(&news));
    await(second, CCD_NEWS_ROWS_END, &news);
    CHECK(news.place != NULL);
    EXPECT(CCD_OK, ccd_watch_free(&news));
    EXPECT(CCD_END, ccd_watch_next(second, 0, &news));

    /* One thread ends it while others wait. */
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&threads[i], NULL, waits_until_ended, second) == 0);
    EXPECT(CCD_OK, ccd_watch_end(second));
    for (int i = 0; i < 3; i++)
        CHECK(pthread_join(threads[i], NULL) == 0);

    /* What cannot be meant. */
    matches[0].count = 1;
    EXPECT(CCD_E_HANDLE, ccd_watch_end(second));
    EXPECT(CCD_E_HANDLE, ccd_watch_next(second, 0, &news));
    EXPECT(CCD_E_HANDLE, ccd_watch_fd(second, &ready.fd));
    EXPECT(CCD_E_HANDLE, ccd_watch_next((ccd_watch_t *)ccd, 0, &news));
    EXPECT(CCD_E_HANDLE, ccd_detach((ccd_t *)watch));
    EXPECT(CCD_E_HANDLE, ccd_watch((ccd_t *)watch, matches, 1, NULL, 0, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, matches, 1, NULL, 0, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, NULL, 1, NULL, 0, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, wrong, CCD_WATCH_MAX + 1, NULL, 0, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, wrong, 1, NULL, 0, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, matches, 1, NULL, 2, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, matches, 1, "0", CCD_WATCH_ROWS, &second));
    EXPECT(CCD_E_ARGUMENT, ccd_watch(ccd, matches, 1, "1-2-3", 0, &second));
    EXPECT(CCD_E_NOT_KEPT, ccd_watch(ccd, matches, 1, "999999", 0, &second));
    matches[0].columns = no_such;
    EXPECT(CCD_E_COLUMN, ccd_watch(ccd, matches, 1, NULL, 0, &second));
    matches[0] = (ccd_match_t){"HOST", NULL, many, 3};
    EXPECT(CCD_E_UPDATE, ccd_watch(ccd, matches, 1, NULL, 0, &second));
    CHECK(second == NULL);
    EXPECT(CCD_E_ARGUMENT, ccd_watch_fd(watch, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_watch_next(watch, 0, NULL));
    EXPECT(CCD_E_ARGUMENT, ccd_watch_next(watch, -2, &news));
    EXPECT(CCD_E_ARGUMENT, ccd_watch_free(NULL));
    news.held = ccd;
    EXPECT(CCD_E_HANDLE, ccd_watch_free(&news));
    EXPECT(CCD_OK, ccd_watch_end(watch));
    CHECK(strcmp(kept.effects[0].row.values[0], "watched1") == 0);
    EXPECT(CCD_OK, ccd_watch_free(&kept));
    CHECK(kept.effects == NULL && kept.count == 0);
}

#endif
