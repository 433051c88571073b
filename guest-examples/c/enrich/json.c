#include "json.h"

#include <string.h>

// ---- Text -------------------------------------------------------------------------------------------------------------

// The value of four hexadecimal digits, or -1.
static int32_t hex4(const uint8_t *at, const uint8_t *end) {
    if (end - at < 4) return -1;
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        uint8_t c = at[i];
        int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (digit < 0) return -1;
        value = value << 4 | digit;
    }
    return value;
}

// The character of an escape; `*at` stands after the backslash and is moved behind the escape. -1 if it is none.
static int32_t escaped(const uint8_t **at, const uint8_t *end) {
    if (*at == end) return -1;
    switch (*(*at)++) {
    case '"': return '"';
    case '\\': return '\\';
    case '/': return '/';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'n': return '\n';
    case 'r': return '\r';
    case 't': return '\t';
    case 'u': break;
    default: return -1;
    }
    int32_t unit = hex4(*at, end);
    if (unit < 0 || (unit >= 0xDC00 && unit <= 0xDFFF)) return -1;
    *at += 4;
    if (unit < 0xD800 || unit > 0xDBFF) return unit;
    // Characters above U+FFFF are two escapes.
    if (end - *at < 6 || (*at)[0] != '\\' || (*at)[1] != 'u') return -1;
    int32_t low = hex4(*at + 2, end);
    if (low < 0xDC00 || low > 0xDFFF) return -1;
    *at += 6;
    return 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
}

// Writes a character as UTF-8; returns how many bytes that are.
static size_t encode(int32_t c, uint8_t out[4]) {
    if (c < 0x80) return out[0] = (uint8_t)c, 1;
    if (c < 0x800) return out[0] = (uint8_t)(0xC0 | c >> 6), out[1] = (uint8_t)(0x80 | (c & 0x3F)), 2;
    if (c < 0x10000) {
        out[0] = (uint8_t)(0xE0 | c >> 12);
        out[1] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
        out[2] = (uint8_t)(0x80 | (c & 0x3F));
        return 3;
    }
    out[0] = (uint8_t)(0xF0 | c >> 18);
    out[1] = (uint8_t)(0x80 | (c >> 12 & 0x3F));
    out[2] = (uint8_t)(0x80 | (c >> 6 & 0x3F));
    out[3] = (uint8_t)(0x80 | (c & 0x3F));
    return 4;
}

// How many bytes the UTF-8 character at `at` has, or 0 if there is none.
static size_t utf8_length(const uint8_t *at, const uint8_t *end) {
    uint8_t first = *at;
    size_t length = first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (length > (size_t)(end - at)) return 0;
    for (size_t i = 1; i < length; i++) {
        if ((at[i] & 0xC0) != 0x80) return 0;
    }
    // Too long a form, half of a surrogate pair, or beyond the last character.
    if ((first == 0xE0 && at[1] < 0xA0) || (first == 0xED && at[1] > 0x9F)) return 0;
    if ((first == 0xF0 && at[1] < 0x90) || (first == 0xF4 && at[1] > 0x8F)) return 0;
    return length;
}

// The strings that the reader hands out are right, so that no faults need to be looked for here.
size_t text_unescape(struct text string, uint8_t *out) {
    const uint8_t *at = string.start, *end = at + string.length;
    size_t length = 0;
    while (at < end) {
        if (*at != '\\') {
            out[length++] = *at++;
        } else {
            at++;
            length += encode(escaped(&at, end), out + length);
        }
    }
    return length;
}

bool text_is(struct text string, const char *wanted) {
    const uint8_t *at = string.start, *end = at + string.length;
    size_t left = strlen(wanted);
    while (at < end) {
        uint8_t bytes[4] = {*at};
        size_t length = 1;
        if (*at++ == '\\') length = encode(escaped(&at, end), bytes);
        if (length > left || memcmp(bytes, wanted, length) != 0) return false;
        wanted += length;
        left -= length;
    }
    return left == 0;
}

// ---- Reading ----------------------------------------------------------------------------------------------------------

struct json json_of(struct text text) {
    return (struct json){.at = text.start, .end = text.start + text.length};
}

static bool fail(struct json *json) {
    json->failed = true;
    return false;
}

// The next byte that is no white space; 0 at the end, and after a fault.
static uint8_t peek(struct json *json) {
    while (json->at < json->end && (*json->at == ' ' || *json->at == '\t' || *json->at == '\n' || *json->at == '\r')) {
        json->at++;
    }
    return json->failed || json->at == json->end ? 0 : *json->at;
}

static bool take(struct json *json, uint8_t wanted) {
    if (peek(json) != wanted || wanted == 0) return fail(json);
    json->at++;
    return true;
}

static bool enter(struct json *json, uint8_t bracket) {
    if (json->depth == JSON_MAX_DEPTH || !take(json, bracket)) return fail(json);
    json->depth++;
    return true;
}

// Leaves an object or array if this is its end.
static bool leave(struct json *json, uint8_t bracket) {
    if (peek(json) != bracket) return false;
    json->at++;
    json->depth--;
    return true;
}

static bool member(struct json *json, struct text *key) {
    return json_string(json, key) && take(json, ':');
}

bool json_object(struct json *json, struct text *key) {
    return enter(json, '{') && !leave(json, '}') && member(json, key);
}

bool json_next_member(struct json *json, struct text *key) {
    return !leave(json, '}') && take(json, ',') && member(json, key);
}

bool json_array(struct json *json) {
    return enter(json, '[') && !leave(json, ']');
}

bool json_next_item(struct json *json) {
    return !leave(json, ']') && take(json, ',');
}

bool json_string(struct json *json, struct text *value) {
    if (!take(json, '"')) return false;
    const uint8_t *start = json->at;
    while (json->at < json->end) {
        uint8_t c = *json->at;
        if (c == '"') {
            *value = (struct text){start, (size_t)(json->at - start)};
            json->at++;
            return true;
        }
        if (c == '\\') {
            json->at++;
            if (escaped(&json->at, json->end) < 0) return fail(json);
        } else {
            size_t length = utf8_length(json->at, json->end);
            if (c < 0x20 || length == 0) return fail(json);
            json->at += length;
        }
    }
    return fail(json);
}

static bool is_digit(const struct json *json) {
    return json->at < json->end && *json->at >= '0' && *json->at <= '9';
}

static bool digits(struct json *json) {
    if (!is_digit(json)) return fail(json);
    while (is_digit(json)) json->at++;
    return true;
}

// Reads a number; says whether it has a fraction or an exponent.
static bool number(struct json *json, bool *is_whole) {
    if (peek(json) == '-') json->at++;
    const uint8_t *first = json->at;
    if (!digits(json) || (*first == '0' && json->at - first > 1)) return fail(json);
    *is_whole = true;
    if (json->at < json->end && *json->at == '.') {
        *is_whole = false;
        json->at++;
        if (!digits(json)) return false;
    }
    if (json->at < json->end && (*json->at == 'e' || *json->at == 'E')) {
        *is_whole = false;
        json->at++;
        if (json->at < json->end && (*json->at == '+' || *json->at == '-')) json->at++;
        if (!digits(json)) return false;
    }
    return true;
}

bool json_integer(struct json *json, int64_t *value) {
    bool is_whole;
    bool is_negative = peek(json) == '-';
    const uint8_t *at = json->at + is_negative;
    if (!number(json, &is_whole) || !is_whole) return fail(json);
    int64_t sum = 0;
    for (; at < json->at; at++) {
        int64_t digit = *at - '0';
        if (__builtin_mul_overflow(sum, 10, &sum) || __builtin_add_overflow(sum, is_negative ? -digit : digit, &sum)) {
            return fail(json);
        }
    }
    *value = sum;
    return true;
}

static bool word(struct json *json, const char *wanted) {
    size_t length = strlen(wanted);
    if ((size_t)(json->end - json->at) < length || memcmp(json->at, wanted, length) != 0) return fail(json);
    json->at += length;
    return true;
}

bool json_boolean(struct json *json, bool *value) {
    *value = peek(json) == 't';
    return word(json, *value ? "true" : "false");
}

bool json_skip(struct json *json) {
    struct text ignored;
    bool flag;
    switch (peek(json)) {
    case '{':
        for (bool more = json_object(json, &ignored); more; more = json_next_member(json, &ignored)) json_skip(json);
        return !json->failed;
    case '[':
        for (bool more = json_array(json); more; more = json_next_item(json)) json_skip(json);
        return !json->failed;
    case '"': return json_string(json, &ignored);
    case 't':
    case 'f': return json_boolean(json, &flag);
    case 'n': return word(json, "null");
    default: return number(json, &flag);
    }
}

bool json_is_done(struct json *json) {
    return peek(json) == 0 && !json->failed && json->at == json->end;
}
