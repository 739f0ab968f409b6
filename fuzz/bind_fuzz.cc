// The syntax of --bind and --mount, and the paths made from it.
#include <cstdint>
#include <string>
#include <string_view>

#include "frontend/plan/bind.h"
#include "fuzz/target.h"

namespace {

namespace plan = postern::plan;

void require(bool holds) {
  if (!holds) {
    __builtin_trap();
  }
}

// What a nested start is told in POSTERN_BIND must read back as the same destination.
std::string escaped(std::string_view path) {
  std::string text;
  for (const char c : path) {
    text += c == ',' || c == ':' || c == '\\' ? std::string{'\\', c} : std::string(1, c);
  }
  return text;
}

void check(const plan::Bind& bind, bool is_mount) {
  require(!bind.source.empty());
  require(bind.target.empty() || bind.target.front() == '/');
  require(!is_mount || !bind.target.empty());
  require(!bind.image_path || bind.image_path->front() == '/');
  require(!bind.image_id || *bind.image_id != 0);
  const std::string path = plan::absolute_path(bind.source, "/home/user");
  require(path.front() == '/' && plan::absolute_path(path, "/") == path);
  require(("/" + path + "/").find("/../") == std::string::npos);
  require(plan::is_within(path + "/below", path));
  const auto again = plan::parse_binds(escaped(path));
  require(again && again->size() == 1 && again->front().source == path);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data),
                              size);  // SAFETY: bytes are chars
  if (const auto binds = plan::parse_binds(text)) {
    for (const plan::Bind& bind : *binds) {
      check(bind, false);
    }
  }
  if (const auto binds = plan::parse_mounts(text)) {
    for (const plan::Bind& bind : *binds) {
      check(bind, true);
    }
  }
  return 0;
}
