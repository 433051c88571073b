#include "json.hpp"

#include <algorithm>

namespace json {

namespace {

void append_utf8(std::string &out, char32_t c) {
    const auto tail = [&](int shift) { out += static_cast<char>(0x80 | (c >> shift & 0x3F)); };
    if (c < 0x80) {
        out += static_cast<char>(c);
    } else if (c < 0x800) {
        out += static_cast<char>(0xC0 | c >> 6);
        tail(0);
    } else if (c < 0x10000) {
        out += static_cast<char>(0xE0 | c >> 12);
        tail(6), tail(0);
    } else {
        out += static_cast<char>(0xF0 | c >> 18);
        tail(12), tail(6), tail(0);
    }
}

}  // namespace

// The next byte that is no white space; 0 at the end, and after a fault.
char Reader::peek() {
    rest_.remove_prefix(std::min(rest_.find_first_not_of(" \t\n\r"), rest_.size()));
    return failed_ || rest_.empty() ? '\0' : rest_.front();
}

bool Reader::take(char wanted) {
    if (peek() != wanted) return fail();
    rest_.remove_prefix(1);
    return true;
}

bool Reader::word(std::string_view wanted) {
    if (!rest_.starts_with(wanted)) return fail();
    rest_.remove_prefix(wanted.size());
    return true;
}

// How many bytes the UTF-8 character at the front has, or 0 if there is none.
std::size_t Reader::character() const {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(rest_[at]); };
    const unsigned first = byte(0);
    const std::size_t length =
        first < 0x80 ? 1 : first < 0xC2 ? 0 : first < 0xE0 ? 2 : first < 0xF0 ? 3 : first < 0xF5 ? 4 : 0;
    if (length > rest_.size()) return 0;
    for (std::size_t at = 1; at < length; ++at) {
        if ((byte(at) & 0xC0) != 0x80) return 0;
    }
    // Too long a form, half of a surrogate pair, or beyond the last character.
    if ((first == 0xE0 && byte(1) < 0xA0) || (first == 0xED && byte(1) > 0x9F)) return 0;
    if ((first == 0xF0 && byte(1) < 0x90) || (first == 0xF4 && byte(1) > 0x8F)) return 0;
    return length;
}

std::optional<char32_t> Reader::hex4() {
    const std::string_view digits = rest_.substr(0, 4);
    std::uint16_t value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value, 16);
    if (error != std::errc{} || end - digits.data() != 4) return std::nullopt;
    rest_.remove_prefix(4);
    return value;
}

// The character of an escape, behind its backslash.
std::optional<char32_t> Reader::escape() {
    static constexpr std::string_view names = "\"\\/bfnrt", means = "\"\\/\b\f\n\r\t";
    if (rest_.empty()) return std::nullopt;
    const char name = rest_.front();
    rest_.remove_prefix(1);
    if (const auto at = names.find(name); at != names.npos) return means[at];
    if (name != 'u') return std::nullopt;
    const auto unit = hex4();
    if (!unit || *unit < 0xD800 || *unit > 0xDFFF) return unit;
    // Characters above U+FFFF are two escapes.
    if (*unit > 0xDBFF || !rest_.starts_with("\\u")) return std::nullopt;
    rest_.remove_prefix(2);
    const auto low = hex4();
    if (!low || *low < 0xDC00 || *low > 0xDFFF) return std::nullopt;
    return 0x10000 + ((*unit - 0xD800) << 10) + (*low - 0xDC00);
}

std::optional<std::string> Reader::string() {
    if (!take('"')) return std::nullopt;
    std::string value;
    while (!rest_.empty()) {
        const char c = rest_.front();
        if (c == '"') {
            rest_.remove_prefix(1);
            return value;
        }
        if (c == '\\') {
            rest_.remove_prefix(1);
            const auto escaped = escape();
            if (!escaped) break;
            append_utf8(value, *escaped);
        } else {
            const std::size_t length = character();
            if (static_cast<unsigned char>(c) < 0x20 || length == 0) break;
            value += rest_.substr(0, length);
            rest_.remove_prefix(length);
        }
    }
    fail();
    return std::nullopt;
}

// Reads a number as it stands there.
std::optional<std::string_view> Reader::number() {
    peek();
    const std::string_view start = rest_;
    const auto digits = [&] {
        const auto count = std::min(rest_.find_first_not_of("0123456789"), rest_.size());
        rest_.remove_prefix(count);
        return count > 0;
    };
    const auto accept = [&](std::string_view any) {
        const bool is_there = !rest_.empty() && any.contains(rest_.front());
        rest_.remove_prefix(is_there);
        return is_there;
    };
    accept("-");
    const std::string_view first = rest_;
    bool is_right = !failed_ && digits() && (first.front() != '0' || first.size() - rest_.size() == 1);
    if (is_right && accept(".")) is_right = digits();
    if (is_right && accept("eE")) {
        accept("+-");
        is_right = digits();
    }
    if (!is_right) {
        fail();
        return std::nullopt;
    }
    return start.substr(0, start.size() - rest_.size());
}

std::optional<std::int64_t> Reader::integer() {
    std::int64_t value = 0;
    if (const auto text = number()) {
        const char *end = text->data() + text->size();
        const auto [stop, error] = std::from_chars(text->data(), end, value);
        if (error == std::errc{} && stop == end) return value;
    }
    fail();
    return std::nullopt;
}

std::optional<bool> Reader::boolean() {
    const bool value = peek() == 't';
    if (!word(value ? "true" : "false")) return std::nullopt;
    return value;
}

bool Reader::skip() {
    switch (peek()) {
    case '{': return object([&](std::string_view) { skip(); });
    case '[': return array([&] { skip(); });
    case '"': return string().has_value();
    case 't':
    case 'f': return boolean().has_value();
    case 'n': return word("null");
    default: return number().has_value();
    }
}

}  // namespace json
