/* For the programs of these tests: a call must end as expected, or the program ends and says where and why. */
#ifndef EXPECT_H
#define EXPECT_H

#include <ccd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPECT(code, call) expect_code(__FILE__, __LINE__, #call, (code), (call))
#define CHECK(condition) expect_true(__FILE__, __LINE__, #condition, (condition))

static inline void expect_code(const char *file, int line, const char *call, int expected, int code)
{
    if (code == expected)
        return;
    fprintf(stderr, "%s:%d: %s\n  is %d: %s\n  expected %d: %s\n  last failure: %s\n", file, line, call, code,
            ccd_perror(code), expected, ccd_perror(expected), ccd_error_detail());
    exit(1);
}

static inline void expect_true(const char *file, int line, const char *condition, int is_true)
{
    if (is_true)
        return;
    fprintf(stderr, "%s:%d: %s does not hold\n  last failure: %s\n", file, line, condition, ccd_error_detail());
    exit(1);
}

#endif
