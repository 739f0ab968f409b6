// Names of images, as command lines and definition files have them.
#include <string>
#include <string_view>

#include "frontend/net/reference.h"
#include "fuzz/target.h"

namespace net = postern::net;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  if (const auto reference = net::parse_reference(text); reference) {
    // What was understood is understood the same when it is written out.
    const auto again = net::parse_reference(reference->name());
    if (!again || again->name() != reference->name() || reference->target().empty()) {
      __builtin_trap();
    }
  }
  if (const auto library = net::parse_library_reference(text); library && library->tag.empty()) {
    __builtin_trap();
  }
  if (const auto name = net::file_name_of(text);
      name && (name->empty() || name->find('/') != std::string::npos || *name == "..")) {
    __builtin_trap();
  }
  return 0;
}
