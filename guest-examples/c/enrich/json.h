// A small reader of JSON (RFC 8259). It goes from left to right over a text that must stay where it is; it copies nothing,
// allocates nothing, and goes no deeper than JSON_MAX_DEPTH.
//
//     struct json json = json_of(text);
//     struct text key;
//     for (bool more = json_object(&json, &key); more; more = json_next_member(&json, &key)) {
//         if (text_is(key, "total")) json_integer(&json, &total); else json_skip(&json);
//     }
//     if (!json_is_done(&json)) ...   // somewhere, it was not what was asked for
//
// After the first fault every call fails, so it is enough to look once, at the end.
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// How many objects and arrays may lie in one another.
#define JSON_MAX_DEPTH 64

// A piece of text. Of a JSON string it is what stands between the quotes, with its escapes.
struct text {
    const uint8_t *start;
    size_t length;
};

struct json {
    const uint8_t *at;
    const uint8_t *end;
    int depth;
    bool failed;
};

// Starts at the beginning of a text.
struct json json_of(struct text text);

// Enters an object. True if it has a member: `key` is set, and its value is what is read next.
bool json_object(struct json *json, struct text *key);
// Goes on to the next member, when the value of the last one has been read. False at the end of the object.
bool json_next_member(struct json *json, struct text *key);

// The same for the items of an array.
bool json_array(struct json *json);
bool json_next_item(struct json *json);

// Reads a value that must be of this kind. Integers are whole numbers without fraction and exponent.
bool json_string(struct json *json, struct text *value);
bool json_integer(struct json *json, int64_t *value);
bool json_boolean(struct json *json, bool *value);
// Reads any value, and forgets it.
bool json_skip(struct json *json);

// Whether all has been read without a fault, and nothing but white space is left.
bool json_is_done(struct json *json);

// Whether a JSON string means this text.
bool text_is(struct text string, const char *wanted);
// Writes what a JSON string means, which is never longer than the string, to `out`; returns how many bytes that are.
size_t text_unescape(struct text string, uint8_t *out);

#endif
