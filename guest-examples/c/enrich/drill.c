#include "drill.h"

#include <stdlib.h>
#include <string.h>

static bool is(const uint8_t *start, size_t length, const char *wanted) {
    return length == strlen(wanted) && memcmp(start, wanted, length) == 0;
}

// Takes memory, and touches it, until none is left.
static void hog(void) {
    enum { CHUNK = 1 << 20 };
    for (;;) {
        volatile char *kept = malloc(CHUNK);
        if (kept == NULL) abort();
        for (size_t at = 0; at < CHUNK; at += 4096) kept[at] = 1;
    }
}

void drill(const exports_wasmill_events_handler_event_t *event) {
    if (!is(event->type.ptr, event->type.len, "drill")) return;
    const uint8_t *fault = event->data.ptr;
    size_t length = event->data.len;
    if (is(fault, length, "trap")) abort();
    if (is(fault, length, "spin")) {
        for (volatile unsigned turns = 0;; turns++) {}
    }
    if (is(fault, length, "hog")) hog();
}
