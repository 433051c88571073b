#include "drill.hpp"

#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>

namespace {

std::string_view view(const std::uint8_t *start, std::size_t length) {
    return {reinterpret_cast<const char *>(start), length};
}

// Takes memory, and touches it, until none is left: then `new` ends the program, as it cannot throw.
void hog() {
    std::vector<std::string> kept;
    for (;;) kept.emplace_back(1 << 20, 'x');
}

} // namespace

void drill(const exports_wasmill_events_handler_event_t &event) {
    if (view(event.type.ptr, event.type.len) != "drill") return;
    const std::string_view fault = view(event.data.ptr, event.data.len);
    if (fault == "trap") std::abort();
    if (fault == "spin") {
        for (volatile unsigned turns = 0;; turns = turns + 1) {}
    }
    if (fault == "hog") hog();
}
