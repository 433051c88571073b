// A small reader of JSON (RFC 8259). It goes from left to right, once, and no deeper than `max_depth`. It throws nothing:
// what is not there is an empty optional or `false`, and after the first fault everything fails, so that it is enough to
// ask `done()` at the end.
//
//     json::Reader json(text);
//     json.object([&](std::string_view key) {
//         if (key == "total") total = json.integer(); else json.skip();
//     });
//     if (!json.done()) ...   // somewhere, it was not what was asked for
#pragma once

#include <charconv>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace json {

// How many objects and arrays may lie in one another.
inline constexpr int max_depth = 64;

class Reader {
public:
    explicit Reader(std::string_view text) : rest_(text) {}

    // Reads an object. `member(key)` is called for each of its members, and reads the value.
    template <typename Member>
    bool object(Member member) {
        return list('{', '}', [&] {
            if (auto key = string(); key && take(':')) member(std::string_view(*key));
        });
    }

    // Reads an array. `item()` is called for each of its items, and reads it.
    template <typename Item>
    bool array(Item item) {
        return list('[', ']', item);
    }

    // Reads a string: what it means, without escapes.
    std::optional<std::string> string();
    // Reads a whole number, without fraction and exponent.
    std::optional<std::int64_t> integer();
    std::optional<bool> boolean();
    // Reads any value, and forgets it.
    bool skip();

    // Whether all has been read without a fault, and nothing but white space is left.
    bool done() { return peek() == '\0' && !failed_ && rest_.empty(); }

private:
    template <typename Element>
    bool list(char open, char close, Element element) {
        if (depth_ == max_depth || !take(open)) return fail();
        ++depth_;
        for (bool first = true; peek() != close; first = false) {
            if (!first && !take(',')) return false;
            element();
            if (failed_) return false;
        }
        --depth_;
        return take(close);
    }

    bool fail() {
        failed_ = true;
        return false;
    }
    char peek();
    bool take(char wanted);
    bool word(std::string_view wanted);
    std::optional<std::string_view> number();
    std::optional<char32_t> escape();
    std::optional<char32_t> hex4();
    std::size_t character() const;

    std::string_view rest_;
    int depth_ = 0;
    bool failed_ = false;
};

}  // namespace json
